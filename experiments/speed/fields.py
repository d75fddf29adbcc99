"""General problems: the contestants' turns in each, from settings to files."""

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from console.files import new_folder, remove_if_empty
from console.provenance import describe_devices, versions
from speed.config import adjoint_names, Config, problem_names
from speed.field_report import FieldRow, print_report, write_report
from speed.jax_fields import contestants, prepare, Prepared, reference_gradient
from speed.peer_process import PeerProcess
from speed.problems import Problem, PROBLEMS


TORCH = {
    "torchdiffeq odeint": "odeint",
    "torchdiffeq odeint_adjoint": "odeint_adjoint",
}


def run_fields(config: Config) -> Path:
    """Runs the problems asked for; returns the folder with the results.

    Raises:
        InputError: if the folder cannot be used.
    """
    about: dict[str, Any] = versions()
    about["device"] = describe_devices()
    about["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    out = new_folder(config.out, "fields", instead="")
    rows: list[FieldRow] = []
    torch = None
    try:
        if config.torch_python is not None:
            torch = PeerProcess(config.torch_python, "speed.torch_fields", {})
            about |= torch.ask(command="versions")
        for name in problem_names(config):
            print(name, file=sys.stderr, flush=True)
            rows += measure(name, torch, config)
            write_report(out, rows, about)
    finally:
        if torch is not None:
            torch.close()
        remove_if_empty(out)
    print_report(rows, about)
    print(f"Tables, JSON and plot: {out}")
    return out


def measure(name: str, torch: PeerProcess | None, config: Config) -> list[FieldRow]:
    """A row for each contestant in one problem."""
    problem = PROBLEMS[name]()
    reference = reference_gradient(problem)
    everyone = contestants(adjoint_names(config))
    ready = {who: prepare(solve, problem) for who, solve in everyone.items()}
    if torch is not None:
        for who, function in TORCH.items():
            ready[who] = prepare_torch(torch, name, function)
    times = take_turns(ready, config.rounds, config.seconds)
    if torch is not None:
        for function in TORCH.values():
            torch.ask(command="forget", name=function)
    return [
        _row(name, problem, who, contestant, times.get(who), reference)
        for who, contestant in ready.items()
    ]


def take_turns(
    contestants: dict[str, Prepared], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Mean seconds of a gradient in each round, for those that have one."""
    able = {who: c for who, c in contestants.items() if c.failure is None}
    for c in able.values():
        # Compiles once more: the next one's first call took the program away.
        c.seconds(1)
    once = {who: c.seconds(1) for who, c in able.items()}
    times: dict[str, list[float]] = {who: [] for who in able}
    for _ in range(rounds):
        for who, c in able.items():
            times[who].append(c.seconds(max(1, int(seconds / once[who]))))
    return times


def prepare_torch(torch: PeerProcess, problem: str, function: str) -> Prepared:
    """`jax_fields.prepare`, over there; PyTorch does not tell its memory on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradient.npz"
        request = dict(problem=problem, solve=function, gradient=str(path))
        answer = torch.ask(command="prepare", name=function, **request)
        gradient = []
        if answer["failure"] is None:
            with np.load(path) as arrays:
                gradient = [arrays[key] for key in arrays.files]
    time_it = lambda repeats: torch.ask(command="time", name=function, repeats=repeats)
    return Prepared(
        first_call_s=answer.get("first_call_s"),
        calls=answer.get("calls"),
        temporary_bytes=None,
        loss=answer.get("loss"),
        gradient=gradient,
        failure=answer["failure"],
        seconds=lambda repeats: time_it(repeats)["seconds"],
    )


def gradient_errors(
    gradient: list[np.ndarray], reference: list[np.ndarray], num_states: int
) -> tuple[float, float]:
    """Norm of the difference as a fraction of the norm: by the state, the parameters.

    Args:
        gradient: First by the arrays of the state, then by those of the parameters.
        reference: The same, exact.
        num_states: Arrays of the state.
    """

    def error(part: slice) -> float:
        flat = lambda arrays: np.concatenate([x.ravel() for x in arrays[part]])
        exact = flat(reference)
        apart = np.linalg.norm(flat(gradient).astype(exact.dtype) - exact)
        return float(apart / np.linalg.norm(exact))

    return error(slice(num_states)), error(slice(num_states, None))


def _row(
    name: str,
    problem: Problem,
    who: str,
    contestant: Prepared,
    seconds: list[float] | None,
    reference: list[np.ndarray],
) -> FieldRow:
    if contestant.failure is not None or seconds is None:
        return FieldRow(name, problem.title, who, failure=contestant.failure)
    states = problem.y0 if isinstance(problem.y0, tuple) else (problem.y0,)
    shapes = [array.shape for array in (*states, *problem.parameters)]
    assert shapes == [array.shape for array in contestant.gradient]
    errors = gradient_errors(contestant.gradient, reference, len(states))
    if not np.all(np.isfinite(errors)):
        return FieldRow(name, problem.title, who, failure="the gradient is not finite")
    return FieldRow(
        name,
        problem.title,
        who,
        median_ms=1000 * statistics.median(seconds),
        fastest_ms=1000 * min(seconds),
        slowest_ms=1000 * max(seconds),
        rounds=len(seconds),
        first_call_s=contestant.first_call_s,
        calls=contestant.calls,
        temporary_bytes=contestant.temporary_bytes,
        loss=contestant.loss,
        error_state=errors[0],
        error_parameters=errors[1],
    )
