"""The three contestants of the benchmark, each as something that can be timed."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import _plain_diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxode


Task = Literal["backsolve", "checkpoint", "test"]


@dataclass(frozen=True)
class Case:
    """One cell of the grid.

    Attributes:
        task: A training step with this adjoint, or scoring images.
        channels: Width of the network.
        batch: Images per solve.
        tolerance: Both tolerances of the solve.
    """

    task: Task
    channels: int
    batch: int
    tolerance: float

    @property
    def name(self) -> str:
        parts = (self.task, self.channels, self.batch, f"{self.tolerance:g}")
        return "-".join(map(str, parts))


@dataclass(frozen=True)
class Material:
    """What every contestant works on: the same weights and the same images.

    Attributes:
        weights: One initialisation, under PyTorch's parameter names.
        images: uint8, as many as are scored in one run.
        labels: Class of each.
        folder: Where other processes may read files.
    """

    weights: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray
    folder: Path


class Contestant(Protocol):
    """Something that can be made ready for a case, and timed."""

    name: str

    def prepare(self, case: Case, material: Material) -> float:
        """Compiles and warms up; returns field calls in one run, recomputed ones too,
        divided by the number of solves."""
        ...

    def seconds(self, case: Case, repeats: int) -> float:
        """Mean seconds of a run over so many, one after the other."""
        ...

    def forget(self, case: Case) -> None:
        """Frees what `prepare` made."""
        ...


def _timed(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


class _InProcess:
    """A contestant whose runs are Python functions that block until they are done."""

    def __init__(self):
        self.runs: dict[Case, Callable[[], Any]] = {}

    def seconds(self, case: Case, repeats: int) -> float:
        return _timed(self.runs[case], repeats)

    def forget(self, case: Case) -> None:
        self.runs.pop(case, None)


class Jaxode(_InProcess):
    """This library, by its public functions."""

    name = "jaxode"

    def prepare(self, case: Case, material: Material) -> float:
        adjoint = "checkpoint" if case.task == "test" else case.task
        model = jaxode.from_torch(material.weights).with_solve(
            rtol=case.tolerance, atol=case.tolerance, adjoint=adjoint
        )
        images, labels = jnp.asarray(material.images), jnp.asarray(material.labels)
        if case.task == "test":
            run = lambda: jax.block_until_ready(
                jaxode.evaluate(model, images, labels, batch_size=case.batch)
            )
            metrics = run()
        else:
            optimiser = optax.sgd(0.0, momentum=0.9)
            state = jaxode.TrainState.create(model, optimiser)
            first = images[: case.batch], labels[: case.batch]
            run = lambda: jax.block_until_ready(
                jaxode.train_step(state, *first, optimiser=optimiser)
            )
            _, metrics = run()
        run()
        self.runs[case] = run
        calls = metrics.nfe_forward + metrics.nfe_backward
        return float(calls / metrics.batches)


class PlainDiffrax(_InProcess):
    """The same network on Diffrax as it comes."""

    name = "plain Diffrax"

    def prepare(self, case: Case, material: Material) -> float:
        calls = 0

        def count():
            nonlocal calls
            calls += 1

        def make(on_call, num_images):
            return _plain_diffrax.make_run(
                material.weights,
                case.tolerance,
                case.task,
                case.batch,
                material.images[:num_images],
                material.labels[:num_images],
                on_call,
            )

        # Counted on one batch: a callback at every call is slow.
        make(count, case.batch)()
        jax.effects_barrier()
        run = make(None, len(material.images))
        run()
        self.runs[case] = run
        return float(calls)


class Torch:
    """The network on PyTorch and torchdiffeq, in another process."""

    name = "torchdiffeq"

    def __init__(self, python: Path):
        script = Path(__file__).with_name("_torch_peer.py")
        self.process = subprocess.Popen(
            [python, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self.ask(command="versions")

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("The PyTorch process ended; its message is above.")
        return json.loads(line)

    def prepare(self, case: Case, material: Material) -> float:
        weights, data = material.folder / "weights.npz", material.folder / "data.npz"
        np.savez(weights, **material.weights)  # pyright: ignore[reportArgumentType]
        np.savez(data, images=material.images, labels=material.labels)
        answer = self.ask(
            command="prepare",
            name=case.name,
            task=case.task,
            channels=case.channels,
            tolerance=case.tolerance,
            batch=case.batch,
            weights=str(weights),
            data=str(data),
        )
        solves = len(material.images) // case.batch if case.task == "test" else 1
        return answer["calls"] / solves

    def seconds(self, case: Case, repeats: int) -> float:
        return self.ask(command="time", name=case.name, repeats=repeats)["seconds"]

    def forget(self, case: Case) -> None:
        self.ask(command="forget", name=case.name)
