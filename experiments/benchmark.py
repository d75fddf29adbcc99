"""Times jaxode against plain Diffrax and, if asked, PyTorch, on the MNIST network.

    python experiments/benchmark.py
    python experiments/benchmark.py --torch-python ~/torch-env/bin/python
    python experiments/benchmark.py --headline --torch-python ~/torch-env/bin/python

All contestants have the same weights, images and tolerance, and take turns in one run,
round after round, since the speed of a machine drifts. A row shows the median over the
rounds, and the field calls that each contestant made: a comparison at unequal work has
to show that it is one. Calls include those repeated inside a gradient. A contestant
that takes more than `--slow` seconds is timed once, and left out where a run would take
more than `--longest`, by its time at a smaller batch. Each has a process of its own.
jaxode and plain Diffrax have the same flags of XLA, those of `mnist.py` unless
`XLA_FLAGS` is set. jaxode has the threads that `mnist.py` takes, a single one for a
small state; the others have all, since they are slower with one.

`--headline` takes a few minutes on two cores, the whole grid more than an hour: the
slowest cells, which come last, take plain Diffrax minutes for a single run. Stopped, it
goes on with `--resume DIR`.

`--torch-python` is a Python with torch and torchdiffeq; this project's own has neither.
"""

import dataclasses
import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from _bench_contestants import (
    Case,
    Contestant,
    Jaxode,
    Material,
    PlainDiffrax,
    Task,
    Torch,
)
from _bench_memory import temporary_bytes
from _bench_report import print_table, read_report, Row, write_report
from _command_line import InputError
from _run_folder import versions
from _start import exit_code, ONE_THREAD_UP_TO, set_xla_cpu_flags, threads_asked_for

import jaxode


@dataclass(frozen=True)
class Config:
    """Times training steps and scoring for jaxode and its peers."""

    torch_python: Path | None = None
    """Python with torch and torchdiffeq; without it, PyTorch is left out."""
    headline: bool = False
    """Only 6 channels, batch 16, tolerance 0.1, and 10,000 images to score."""
    rounds: int = 7
    """Rounds in which the contestants take turns."""
    seconds: float = 1.0
    """Time spent on each contestant in each round, about; at least one run."""
    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """Images to work on."""
    data_dir: Path | None = None
    """Folder with the four original files of the data set."""
    slow: float = 5.0
    """Seconds of a run from which on a contestant is timed in one round only."""
    longest: float = 300.0
    """Seconds of a run, by the time at a smaller batch, past which it is left out."""
    out: Path | None = None
    """New folder for table, JSON and plots; runs/TIME-benchmark if not given."""
    resume: Path | None = None
    """Folder of a benchmark that was stopped, to go on with its other cells."""


def cases(headline: bool) -> list[Case]:
    """The grid: every task over batch sizes, widths, tolerances; fast cells first."""
    tasks: tuple[Task, ...] = ("backsolve", "checkpoint", "test")
    grid = [Case(task, 6, 16, 0.1) for task in tasks]
    if headline:
        return grid
    shapes = [(6, 128, 0.1), (6, 512, 0.1), (2, 16, 0.1), (16, 16, 0.1)]
    shapes += [(6, 16, 1e-2), (6, 16, 1e-3)]
    shapes += [(2, 128, 0.1), (2, 512, 0.1), (16, 128, 0.1)]
    # In these a single run of plain Diffrax takes from 10 seconds to minutes.
    shapes += [(64, 16, 0.1), (16, 512, 0.1), (64, 128, 0.1), (64, 512, 0.1)]
    grid += [Case(task, *shape) for shape in shapes for task in tasks]
    return grid


def material(config: Config, case: Case, folder: Path) -> Material:
    """Weights of the case's width, and as many images as its scoring takes."""
    import jax
    import numpy as np

    data = jaxode.datasets.load(config.dataset, data_dir=config.data_dir)
    # Plain Diffrax takes a third of a second for each image in 64 channels.
    few = 1024 if case.channels < 64 else 64
    wanted = 10_000 if config.headline else max(few, case.batch)
    if case.task != "test":
        wanted = case.batch
    images = np.concatenate([data.test_images, data.train_images])[:wanted]
    labels = np.concatenate([data.test_labels, data.train_labels])[:wanted]
    whole = len(images) // case.batch * case.batch
    model = jaxode.nn.ODENet(case.channels, key=jax.random.key(0))
    weights = jaxode.nn.to_torch(model)
    return Material(weights, images[:whole], labels[:whole], folder)


def compete(
    case: Case, contestants: list[Contestant], material: Material, config: Config
) -> Iterable[Row]:
    """Prepares the contestants, lets them take turns, and yields a row for each."""
    calls = {c.name: c.prepare(case, material) for c in contestants}
    first = {c.name: c.seconds(case, 1) for c in contestants}
    times = {name: [seconds] for name, seconds in first.items()}
    fast = [c for c in contestants if first[c.name] <= config.slow]
    for c in fast:
        times[c.name].clear()
    for _ in range(config.rounds):
        for c in fast:
            repeats = max(1, int(config.seconds / first[c.name]))
            times[c.name].append(c.seconds(case, repeats))
    for c in contestants:
        c.forget(case)
        ordered = sorted(times[c.name])
        yield Row(
            case=case,
            contestant=c.name,
            images=len(material.images),
            median_ms=1000 * statistics.median(ordered),
            fastest_ms=1000 * ordered[0],
            slowest_ms=1000 * ordered[-1],
            calls_per_solve=calls[c.name],
            rounds=len(ordered),
        )


def expected_seconds(name: str, case: Case, images: int, rows: Iterable[Row]) -> float:
    """What a run will take a contestant, by its time at the nearest smaller batch.

    Args:
        name: The contestant.
        case: The cell that is next.
        images: Images in one run of it.
        rows: What has been measured.

    Returns:
        Seconds; 0 where nothing is known.
    """
    smaller = {
        row.case.batch: row.median_ms / row.images
        for row in rows
        if row.contestant == name
        and dataclasses.replace(row.case, batch=case.batch) == case
    }
    return smaller[max(smaller)] * images / 1000 if smaller else 0.0


def _read_rows(out: Path, about: dict[str, Any]) -> list[Row]:
    """What a stopped benchmark had measured.

    Raises:
        InputError: if that cannot be read, or was with other versions than these.
    """
    try:
        rows, before = read_report(out)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out} holds no benchmark to go on with: {error}.") from error
    other = [key for key in {**before, **about} if before.get(key) != about.get(key)]
    if other:
        raise InputError(
            f"{out} was measured with {other[0]} {before.get(other[0])}, and here it "
            f"is {about.get(other[0])}; start a new benchmark without --resume."
        )
    return rows


def main(config: Config) -> Path:
    """Runs the grid; returns the folder with the results."""
    if config.resume is not None and config.out is not None:
        raise InputError("--resume DIR writes to DIR; leave --out away.")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = config.resume or config.out or Path("runs") / f"{now}-benchmark"
    if config.resume is None:
        out.mkdir(parents=True)
    contestants: list[Contestant] = [Jaxode(), PlainDiffrax()]
    about = versions() | {"xla_flags": os.environ.get("XLA_FLAGS", "")}
    rule = f"one up to {ONE_THREAD_UP_TO} images x channels, else all"
    about |= {"jaxode_threads": threads_asked_for() or rule}
    if config.torch_python is not None:
        torch = Torch(config.torch_python)
        contestants.append(torch)
        about |= torch.versions
    rows = [] if config.resume is None else _read_rows(out, about)
    done = {row.case for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(config.headline):
            if case in done:
                continue
            print(case.name, file=sys.stderr, flush=True)
            shared = material(config, case, Path(folder))
            ready = []
            for c in contestants:
                seconds = expected_seconds(c.name, case, len(shared.images), rows)
                if seconds <= config.longest:
                    ready.append(c)
                else:
                    print(
                        f"  {c.name} left out: {seconds:.0f} s a run", file=sys.stderr
                    )
            rows += compete(case, ready, shared, config)
            write_report(out, rows, about, [])
    memory = temporary_bytes()
    write_report(out, rows, about, memory)
    print_table(rows, about, memory)
    print(f"Table, JSON and plots: {out}")
    return out


def _command() -> Path:
    config = tyro.cli(Config, description=__doc__)
    try:
        return main(config)
    except (jaxode.datasets.DataError, OSError) as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    set_xla_cpu_flags()
    sys.exit(exit_code(_command, "benchmark.py"))
