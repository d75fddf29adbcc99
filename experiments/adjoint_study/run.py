"""All parts of the comparison in their order, from settings to files."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxode
from adjoint_study.config import (
    AdjointsConfig,
    chosen_adjoints,
    PartName,
    Sizes,
    sizes_for,
)
from adjoint_study.figures import draw
from adjoint_study.gradients import memory_records, tolerance_records
from adjoint_study.horizon import horizon_records
from adjoint_study.networks import solver_records, training_records, twin_records
from adjoint_study.tables import write_table
from adjoint_study.training import Networks
from classifier.run_folder import stored_settings
from console.files import new_folder, remove_if_empty
from console.progress import Reporter
from console.provenance import describe_devices, provenance


def run(config: AdjointsConfig) -> Path:
    """Measures what is asked for; each part is on disk as soon as it is done.

    Returns:
        The folder with the results.

    Raises:
        InputError: if the settings cannot be used.
        jaxode.datasets.DataError: if the data cannot be had.
        jaxode.training.CheckpointError: if the run that was named cannot be read.
    """
    adjoints = chosen_adjoints(config)
    sizes = sizes_for(config)
    reporter = Reporter(config.quiet)
    folder = new_folder(config.out, "adjoints", instead="")
    try:
        reporter.info(f"device      {describe_devices()}")
        dataset = jaxode.datasets.load(
            config.dataset, data_dir=config.data_dir, on_notice=reporter.notice
        )
        reporter.info(f"data set    {dataset.name}")
        networks = Networks(dataset, sizes, config.run, reporter)
        ways: dict[PartName, Callable[[], Any]] = {
            "memory": lambda: memory_records(adjoints, sizes, reporter),
            "tolerance": lambda: tolerance_records(
                adjoints, sizes, networks, dataset, reporter
            ),
            "training": lambda: training_records(networks),
            "horizon": lambda: horizon_records(
                adjoints, sizes, networks.usual().model, dataset, reporter
            ),
            "solvers": lambda: solver_records(sizes, networks, dataset, reporter),
            "twins": lambda: twin_records(sizes, networks),
        }
        about = _about(config, sizes, dataset, adjoints)
        for part in dict.fromkeys(config.parts):
            reporter.info(f"{part}")
            start = time.perf_counter()
            records = list(ways[part]())
            seconds = round(time.perf_counter() - start, 1)
            table = {**about, "seconds": seconds, "records": records}
            write_table(folder, part, **table)
            draw(folder, {part: table})
            failed = sum(record["failure"] is not None for record in records)
            reporter.info(
                f"  {len(records)} rows, {failed} with a failure, in {seconds:.1f} s"
            )
    finally:
        remove_if_empty(folder)
    reporter.result(f"{dataset.name}: tables and figures in {folder}{os.sep}")
    return folder


def _about(
    config: AdjointsConfig,
    sizes: Sizes,
    dataset: jaxode.datasets.Dataset,
    adjoints: tuple[str, ...],
) -> dict[str, Any]:
    """Where the numbers come from; part of every table, since parts can be redone."""
    recipe = stored_settings(dataclasses.replace(sizes.recipe, dataset=dataset.name))
    return {
        "dataset": dataset.name,
        "seed": config.seed,
        "run": config.run and str(config.run),
        "quick": config.quick,
        "adjoints": adjoints,
        "sizes": {**dataclasses.asdict(sizes), "recipe": recipe},
        **provenance(),
    }
