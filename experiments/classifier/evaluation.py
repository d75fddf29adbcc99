"""Scores a finished run, with another solver or tolerance if asked."""

import dataclasses
import time
from typing import Any

import jax

import jaxode
from classifier.checkpoint import load_model, read_checkpoint
from classifier.checks import check
from classifier.config import Config, EvaluateConfig
from classifier.data import (
    batch_sharding,
    eval_batch_size,
    place,
    require_same,
    split_data,
)
from classifier.loop import compile_ahead
from classifier.records import score, sums_on_host, test_record, what_failed
from classifier.run_folder import read_run, RunFolder
from console.command_line import InputError
from console.progress import number, Reporter
from console.provenance import describe_devices, uses_x64


def evaluate(asked: EvaluateConfig) -> dict[str, Any]:
    """Loads the last checkpoint of a run and scores it. Nothing is written.

    Returns:
        The score, with the names that `metrics.jsonl` has for it.

    Raises:
        InputError: if the folder is no run, or has no checkpoint yet or none that can
            be used, or nothing was classified.
        jaxode.datasets.DataError: if the data cannot be had.
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    folder, stored, about = read_run(asked.run)
    if read_checkpoint(folder, stored, about) is None:
        raise InputError(f"{asked.run} has no checkpoint: no epoch was completed.")
    config = merge(stored, asked)
    check(config)
    reporter = Reporter(asked.quiet)
    reporter.info(f"device      {describe_devices()}")
    dataset = jaxode.datasets.load(
        about["dataset"], data_dir=config.data_dir, on_notice=reporter.notice
    )
    require_same(dataset, about, asked.run)
    precision = jax.default_matmul_precision(config.precision)
    with precision, jax.enable_x64(uses_x64(about)):
        record = _score(config, folder, dataset, reporter)
    reporter.result(
        f"{dataset.name}: {score(record)}  loss {number(record['test_loss'])}  "
        f"field calls {record['test_nfe']:.1f} per solve  "
        f"in {record['test_seconds']:.2f} s, compiled in "
        f"{record['compile_seconds']:.1f} s"
    )
    if record["test_failed_solves"]:
        reporter.result(
            f"{record['test_failed_solves']} SOLVES FAILED; their images count as wrong"
        )
    problem = what_failed(record)
    if problem is not None:
        raise InputError(f"The evaluation failed: {problem}.")
    return record


def merge(stored: Config, asked: EvaluateConfig) -> Config:
    """The settings of the run with those that were asked for in their place."""
    given = {
        field.name: getattr(asked, field.name)
        for field in dataclasses.fields(EvaluateConfig)
        if field.name != "run" and getattr(asked, field.name) is not None
    }
    wants_tolerance = asked.rtol is not None or asked.atol is not None
    was_fixed = stored.fixed_steps and not wants_tolerance
    given["fixed_steps"] = asked.fixed_steps or was_fixed
    given["plain"] = asked.plain or stored.plain
    return dataclasses.replace(stored, **given)


def _score(
    config: Config,
    folder: RunFolder,
    dataset: jaxode.datasets.Dataset,
    reporter: Reporter,
) -> dict[str, Any]:
    _, scored, scored_name = split_data(config, dataset)
    if config.fixed_steps:
        control = f"steps of {config.dt0}"
    else:
        control = f"rtol {config.rtol}, atol {config.atol}"
    reporter.info(
        f"scoring     {len(scored.labels):,} {scored_name} images of {dataset.name}, "
        f"{config.solver}, {control}"
    )
    sharding = batch_sharding(config, len(scored.labels))
    model = load_model(folder, config)
    model, images, labels = place((model, *scored), sharding)
    options = {
        "batch_size": eval_batch_size(config, len(scored.labels)),
        "sharding": sharding,
    }
    start = time.perf_counter()
    program = compile_ahead(jaxode.training.evaluate, model, images, labels, **options)
    middle = time.perf_counter()
    sums = sums_on_host(program(model, images, labels, **options))
    end = time.perf_counter()
    return {
        "dataset": dataset.name,
        "scored_on": scored_name,
        **test_record(sums),
        "test_seconds": end - middle,
        "compile_seconds": middle - start,
    }
