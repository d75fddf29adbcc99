"""Scores a finished run, with another solver or tolerance if asked."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

import jaxode
from classifier.checkpoint import load_model, read_checkpoint
from classifier.checks import check
from classifier.config import Config, EvaluateConfig
from classifier.data import Images, scoring, split_data
from classifier.devices import batch_sharding, place
from classifier.fingerprint import require_same
from classifier.fits import describe
from classifier.networks import config_of, Network, solve_settings
from classifier.records import score, sums_on_host, test_record, what_failed
from classifier.run_folder import read_run
from console.command_line import InputError
from console.precision import enable_x64
from console.progress import number, Reporter
from console.provenance import describe_devices, uses_x64, x64_is_on


WEIGHTS = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Trained:
    """A network to score.

    Attributes:
        config: The settings it was trained with, or the usual ones of its kind.
        dataset: What it is scored on.
        load: Makes it, to be solved under given settings.
        about: The content of the run's `config.json`; empty for weights.
    """

    config: Config
    dataset: str
    load: Callable[[Config], Network]
    about: dict[str, Any]


def evaluate(asked: EvaluateConfig) -> dict[str, Any]:
    """Scores the last checkpoint of a run, or weights. Nothing is written.

    Returns:
        The score, with the names that `metrics.jsonl` has for it.

    Raises:
        InputError: if the folder is no run, or has no checkpoint yet or none that can
            be used; if the weights cannot be used; or if nothing was classified.
        jaxode.datasets.DataError: if the data cannot be had.
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    is_file = asked.run.suffix in WEIGHTS and not asked.run.is_dir()
    trained = of_weights(asked) if is_file else of_run(asked)
    config = merge(trained.config, asked)
    check(config)
    reporter = Reporter(asked.quiet)
    reporter.info(f"device      {describe_devices()}")
    dataset = jaxode.datasets.load(
        trained.dataset, data_dir=config.data_dir, on_notice=reporter.notice
    )
    require_same(dataset, trained.about, asked.run)
    precision = jax.default_matmul_precision(config.precision)
    x64 = x64_is_on() if is_file else uses_x64(trained.about)
    with precision, enable_x64(x64):
        record = _score(config, trained, dataset, reporter)
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


def of_run(asked: EvaluateConfig) -> Trained:
    """The network of a run."""
    for name in ("dataset", "blocks"):
        if getattr(asked, name) is not None:
            raise InputError(
                f"--{name} is for files of weights; the run {asked.run} has its own."
            )
    folder, stored, about = read_run(asked.run)
    if read_checkpoint(folder, stored, about) is None:
        raise InputError(f"{asked.run} has no checkpoint: no epoch was completed.")
    return Trained(stored, about["dataset"], partial(load_model, folder), about)


def of_weights(asked: EvaluateConfig) -> Trained:
    """A network that PyTorch has trained, under the usual settings of its kind."""
    read = partial(jaxode.nn.from_torch, asked.run, num_blocks=asked.blocks)
    try:
        model = read(plain=asked.plain)
    except (ValueError, ImportError) as error:
        raise InputError(f"{asked.run}: {error}") from error

    def under(config: Config) -> Network:
        if isinstance(model, jaxode.nn.ODENet):
            return model.with_solve(**solve_settings(config))
        return model

    return Trained(config_of(model), asked.dataset or "auto", under, {})


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
    trained: Trained,
    dataset: jaxode.datasets.Dataset,
    reporter: Reporter,
) -> dict[str, Any]:
    _, scored, scored_name = split_data(config, dataset)
    reporter.info(
        f"scoring     {len(scored.labels):,} {scored_name} images of {dataset.name}, "
        f"{describe(config)}"
    )
    sharding = batch_sharding(config)
    model = place(trained.load(config), sharding)
    how = scoring(config, Images.of(scored, sharding), sharding)
    start = time.perf_counter()
    program = how.compile(model)
    middle = time.perf_counter()
    sums = sums_on_host(program(model))
    end = time.perf_counter()
    return {
        "dataset": dataset.name,
        "scored_on": scored_name,
        **test_record(sums),
        "test_seconds": end - middle,
        "compile_seconds": middle - start,
    }
