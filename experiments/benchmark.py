"""Times jaxode against plain Diffrax and, if asked, PyTorch, on the MNIST network.

    python experiments/benchmark.py
    python experiments/benchmark.py --torch-python ~/torch-env/bin/python
    python experiments/benchmark.py --headline --torch-python ~/torch-env/bin/python

All contestants have the same weights, images and tolerance, and take turns in one run,
round after round, since the speed of a machine drifts. A row shows the median over the
rounds, and the field calls that each contestant made: a comparison at unequal work has
to show that it is one. Calls include those repeated inside a gradient. The whole grid
takes about half an hour on two cores, `--headline` a few minutes. jaxode and plain
Diffrax share one process and XLA's flags, which are those of `mnist.py` unless
`XLA_FLAGS` is set.

`--torch-python` is a Python with torch and torchdiffeq; this project's own has neither.
"""

import datetime
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from _bench_report import print_table, Row, write_report
from _run_folder import versions
from _start import widen_cpu_vectors

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
    out: Path | None = None
    """New folder for table, JSON and plots; runs/TIME-benchmark if not given."""


def cases(headline: bool) -> list[Case]:
    """The grid: every task over batch sizes and widths, then over tolerances."""
    tasks: tuple[Task, ...] = ("backsolve", "checkpoint", "test")
    grid = [Case(task, 6, 16, 0.1) for task in tasks]
    if headline:
        return grid
    for task in tasks:
        grid += [Case(task, 6, batch, 0.1) for batch in (128, 512)]
        grid += [Case(task, channels, 16, 0.1) for channels in (2, 16, 64)]
        grid += [Case(task, 6, 16, tolerance) for tolerance in (1e-2, 1e-3)]
        grid += [
            Case(task, channels, batch, 0.1)
            for channels in (2, 16, 64)
            for batch in (128, 512)
            if channels < 64 or batch < 512
        ]
    return grid


def material(config: Config, case: Case, folder: Path) -> Material:
    """Weights of the case's width, and as many images as its scoring takes."""
    import jax
    import numpy as np

    data = jaxode.load_mnist(config.dataset, data_dir=config.data_dir)
    wanted = 10_000 if config.headline else max(1024, case.batch)
    if case.task != "test":
        wanted = case.batch
    images = np.concatenate([data.test_images, data.train_images])[:wanted]
    labels = np.concatenate([data.test_labels, data.train_labels])[:wanted]
    whole = len(images) // case.batch * case.batch
    model = jaxode.ODENet(case.channels, key=jax.random.key(0))
    weights = jaxode.to_torch(model)
    return Material(weights, images[:whole], labels[:whole], folder)


def compete(
    case: Case, contestants: list[Contestant], material: Material, config: Config
) -> Iterable[Row]:
    """Prepares the contestants, lets them take turns, and yields a row for each."""
    calls = {c.name: c.prepare(case, material) for c in contestants}
    repeats = {
        c.name: max(1, int(config.seconds / c.seconds(case, 1))) for c in contestants
    }
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for _ in range(config.rounds):
        for c in contestants:
            times[c.name].append(c.seconds(case, repeats[c.name]))
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
        )


def main(config: Config) -> Path:
    """Runs the grid; returns the folder with the results."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = config.out or Path("runs") / f"{now}-benchmark"
    out.mkdir(parents=True)
    contestants: list[Contestant] = [Jaxode(), PlainDiffrax()]
    about = versions() | {"xla_flags": os.environ.get("XLA_FLAGS", "")}
    if config.torch_python is not None:
        torch = Torch(config.torch_python)
        contestants.append(torch)
        about |= torch.versions
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(config.headline):
            print(case.name, file=sys.stderr, flush=True)
            shared = material(config, case, Path(folder))
            rows += compete(case, contestants, shared, config)
            write_report(out, rows, about, [])
    memory = temporary_bytes()
    write_report(out, rows, about, memory)
    print_table(rows, about, memory)
    print(f"Table, JSON and plots: {out}")
    return out


if __name__ == "__main__":
    widen_cpu_vectors()
    main(tyro.cli(Config, description=__doc__))
