"""One training run, from settings to the files of its folder."""

import datetime
import os
import shlex
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from _command_line import check, check_resumed, InputError
from _config import Config
from _loop import Programs, RunStopped, Trainer
from _plots import draw_curves
from _report import epoch_line, number, Reporter, score
from _run_folder import (
    git_commit,
    read_run,
    RunFolder,
    stored_settings,
    versions,
)
from _setup import (
    batch_sharding,
    build_model,
    build_optimiser,
    describe_devices,
    Images,
    place,
    read_checkpoint_header,
    split_data,
)
from _start import set_interrupt_hint

import jaxode


def train(config: Config) -> dict[str, Any]:
    """Trains, or goes on training, as the settings say.

    Returns:
        The last epoch's object of `metrics.jsonl`.

    Raises:
        InputError: if the settings cannot be used, or too many updates failed.
        jaxode.datasets.DataError: if the data cannot be had.
        jaxode.training.CheckpointError: if the run to resume cannot be read.
    """
    check(config)
    reporter = Reporter(config.quiet)
    history: list[dict[str, Any]] = []
    dataset_name = config.dataset
    if config.resume is None:
        folder = RunFolder.create(config.out, config.adjoint)
    else:
        folder, history, dataset_name = _open(config)
    try:
        with jax.default_matmul_precision(config.precision):
            return _train(config, reporter, folder, history, dataset_name)
    finally:
        folder.remove_if_empty()


def _train(
    config: Config,
    reporter: Reporter,
    folder: RunFolder,
    history: list[dict[str, Any]],
    dataset_name: str,
) -> dict[str, Any]:
    reporter.info(f"device      {describe_devices()}")
    dataset = jaxode.datasets.load(
        dataset_name, data_dir=config.data_dir, on_notice=reporter.notice
    )
    trainer, state = _prepare(config, dataset, reporter)
    num_parameters = sum(
        leaf.size for leaf in jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
    )
    reporter.info(f"parameters  {num_parameters:,}")
    if history:
        state, _ = jaxode.training.load_checkpoint(folder.checkpoint, state)
        folder.restore_metrics(history)
        reporter.info(f"resumed     {folder.path} after epoch {len(history)}")
    facts = _facts(trainer, num_parameters)
    folder.write_config(config, dataset=dataset.name, **facts)
    set_interrupt_hint(
        f"Interrupted. Go on with --resume {shlex.quote(str(folder.path))}"
    )
    if len(history) < config.epochs:
        _run(trainer, state, folder, history)
    return _finish(trainer, folder, history)


def _prepare(
    config: Config, dataset: jaxode.datasets.Dataset, reporter: Reporter
) -> tuple[Trainer, jaxode.training.TrainState]:
    train_split, scored_split, scored_name = split_data(config, dataset)
    reporter.info(
        f"data set    {_title(dataset)}: {len(train_split.labels):,} images to train "
        f"on, {len(scored_split.labels):,} {scored_name} images"
    )
    sharding = batch_sharding(config, len(scored_split.labels))
    used = 1 if sharding is None else sharding.mesh.size
    if used < jax.device_count():
        reporter.info(
            f"devices     {used} of {jax.device_count()} used: both batch sizes must "
            "be divisible by their number"
        )
    train_set = Images(*place(tuple(train_split), sharding))
    steps_per_epoch = -(-len(train_set) // config.batch_size)
    optimiser = build_optimiser(config, steps_per_epoch)
    state = jaxode.training.TrainState.create(build_model(config), optimiser)
    trainer = Trainer(
        config=config,
        dataset_name=dataset.name,
        train_set=train_set,
        scored_set=Images(*place(tuple(scored_split), sharding)),
        scored_name=scored_name,
        optimiser=optimiser,
        reporter=reporter,
        sharding=sharding,
    )
    return trainer, place(state, sharding)


def _title(dataset: jaxode.datasets.Dataset) -> str:
    if dataset.name == "digits":
        return "digits (scikit-learn's 8x8 digits, NOT MNIST)"
    return dataset.name


def _open(config: Config) -> tuple[RunFolder, list[dict[str, Any]], str]:
    """The run to go on with: its folder, its epochs so far, and its data set."""
    assert config.resume is not None
    folder, stored, content = read_run(config.resume)
    header = read_checkpoint_header(folder, stored)
    # A run that was killed in its first epoch has no checkpoint, and starts again.
    history = [] if header is None else header["history"]
    check_resumed(config, stored, len(history))
    return folder, history, content["dataset"]


def _facts(trainer: Trainer, num_parameters: int) -> dict[str, Any]:
    return {
        "train_images": len(trainer.train_set),
        "scored_images": len(trainer.scored_set),
        "scored_on": trainer.scored_name,
        "parameters": num_parameters,
        "device": describe_devices(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": versions(),
        "git_commit": git_commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _run(
    trainer: Trainer,
    state: jaxode.training.TrainState,
    folder: RunFolder,
    history: list[dict[str, Any]],
) -> None:
    reporter, epochs = trainer.reporter, trainer.config.epochs
    programs = _compile(trainer, state)
    compile_seconds = programs.compile_seconds
    for epoch in range(len(history) + 1, epochs + 1):
        try:
            state, record = trainer.run_epoch(state, epoch, programs)
        except RunStopped as stop:
            _save(folder.stopped, trainer, stop.state, history)
            raise InputError(_what_to_try(stop, folder.stopped)) from stop
        record["compile_seconds"] = round(compile_seconds, 3)
        compile_seconds = 0.0
        history.append(record)
        # In this order: what the checkpoint has, the metrics can be made to have.
        _save(folder.checkpoint, trainer, state, history)
        folder.append(record)
        reporter.info(epoch_line(record, epochs))


def _compile(trainer: Trainer, state: jaxode.training.TrainState) -> Programs:
    trainer.reporter.info("compiling   ...")
    programs = trainer.compile(state)
    trainer.reporter.info(f"compiled    in {programs.compile_seconds:.1f} s")
    return programs


def _save(
    path: Path,
    trainer: Trainer,
    state: jaxode.training.TrainState,
    history: list[dict[str, Any]],
) -> None:
    header = {
        "settings": stored_settings(trainer.config),
        "dataset": trainer.dataset_name,
        "epoch": len(history),
        "versions": versions(),
        "history": history,
    }
    jaxode.training.save_checkpoint(path, state, header)


def _what_to_try(stop: RunStopped, path: Path) -> str:
    skipped = f"{jaxode.training.MAX_SKIPPED_IN_A_ROW} updates in a row were skipped"
    if stop.totals["failed_solves"]:
        why = "solves failed or reached --max-steps"
        advice = "a smaller --lr, larger --rtol and --atol, or more --max-steps"
    else:
        why = "the loss or a gradient was not finite"
        advice = "a smaller --lr, a longer --warmup-epochs, or another --seed"
    return (
        f"Stopped in epoch {stop.epoch}: {skipped} because {why}. "
        f"The state is in {path}.\nTry, in a new run, {advice}."
    )


def _finish(
    trainer: Trainer, folder: RunFolder, history: list[dict[str, Any]]
) -> dict[str, Any]:
    last, config = history[-1], trainer.config
    title = f"{trainer.dataset_name}, {config.adjoint}, {score(last)}"
    draw_curves(history, title, folder.curves)
    trainer.reporter.result(
        f"{trainer.dataset_name}: {score(last)} after {last['epoch']} epochs, "
        f"train loss {number(last['train_loss'])}, tested in "
        f"{last['test_seconds']:.2f} s; files in {folder.path}{os.sep}"
    )
    return last
