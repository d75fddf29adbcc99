"""The contestants' turns, cell after cell, from settings to files."""

import dataclasses
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxode
from classifier.memory import temporary_bytes
from console.command_line import InputError
from console.files import new_folder, remove_if_empty
from console.provenance import versions
from console.xla_cpu import ONE_THREAD_UP_TO, threads_asked_for
from speed.cases import Case, cases, paper_cases, Row
from speed.config import Config
from speed.contestants import Contestant, Inputs, Jaxode, PlainDiffrax, Torch
from speed.report import print_table, read_report, write_report


def run(config: Config) -> Path:
    """Runs the grid; returns the folder with the results.

    Raises:
        InputError: if a benchmark cannot be gone on with.
        jaxode.datasets.DataError: if the data cannot be had.
    """
    contestants: list[Contestant] = [Jaxode(), PlainDiffrax()]
    about: dict[str, Any] = versions()
    about["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    rule = f"one up to {ONE_THREAD_UP_TO} images x channels, else all"
    about["jaxode_threads"] = threads_asked_for() or rule
    if config.torch_python is not None:
        torch = Torch(config.torch_python)
        contestants.append(torch)
        about |= torch.versions
    if config.resume is not None:
        out, rows = config.resume, _read_rows(config.resume, about)
    else:
        instead = ", or go on with a benchmark by --resume"
        out, rows = new_folder(config.out, "benchmark", instead), []
    try:
        _fill(rows, out, contestants, config, about)
        memory = [] if config.paper else temporary_bytes()
        write_report(out, rows, about, memory)
    finally:
        remove_if_empty(out)
    print_table(rows, about, memory)
    print(f"Table, JSON and plots: {out}")
    return out


def _fill(
    rows: list[Row],
    out: Path,
    contestants: list[Contestant],
    config: Config,
    about: dict[str, Any],
) -> None:
    """Adds the rows of the cells that have none; each is on disk once it is done."""
    done = {row.case for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for case in paper_cases() if config.paper else cases(config.headline):
            if case in done:
                continue
            print(case.name, file=sys.stderr, flush=True)
            inputs = draw_inputs(config, case, Path(folder))
            ready = []
            for c in contestants:
                seconds = expected_seconds(c.name, case, len(inputs.images), rows)
                if seconds <= config.longest:
                    ready.append(c)
                else:
                    left_out = f"  {c.name} left out: {seconds:.0f} s a run"
                    print(left_out, file=sys.stderr)
            rows += compete(case, ready, inputs, config)
            write_report(out, rows, about, [])


def draw_inputs(config: Config, case: Case, folder: Path) -> Inputs:
    """Weights of the case's width, and as many images as its scoring takes."""
    data = jaxode.datasets.load(config.dataset, data_dir=config.data_dir)
    # Plain Diffrax takes a third of a second for each image in 64 channels.
    few = 1024 if case.channels < 64 else 64
    wanted = 10_000 if config.headline else max(few, case.batch)
    if case.task != "test":
        wanted = case.batch
    images = np.concatenate([data.test_images, data.train_images])[:wanted]
    labels = np.concatenate([data.test_labels, data.train_labels])[:wanted]
    whole = len(images) // case.batch * case.batch
    kinds = {"post": jaxode.nn.ODENet, "paper": jaxode.nn.PaperNet}
    model = kinds[case.network](case.channels, key=jax.random.key(0))
    weights = jaxode.nn.to_torch(model)
    return Inputs(weights, images[:whole], labels[:whole], folder)


def compete(
    case: Case, contestants: list[Contestant], inputs: Inputs, config: Config
) -> Iterable[Row]:
    """Prepares the contestants, lets them take turns, and yields a row for each."""
    calls = {c.name: c.prepare(case, inputs) for c in contestants}
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
            images=len(inputs.images),
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
