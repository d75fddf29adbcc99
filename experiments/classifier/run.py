"""A training run as its folder and the screen show it."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxode
from classifier.checkpoint import read_checkpoint_header
from classifier.checks import check_resumed
from classifier.config import Config
from classifier.curves import draw_curves
from classifier.data import Data, describe_division
from classifier.devices import place
from classifier.fits import run_name
from classifier.loop import Programs, RunStopped, Trainer
from classifier.records import epoch_line, score
from classifier.run_folder import read_run, RunFolder, stored_settings
from classifier.setup import count_parameters
from console.command_line import InputError
from console.files import new_folder, remove_if_empty
from console.process import set_interrupt_hint
from console.progress import number, Reporter
from console.provenance import describe_devices, provenance, versions
from jaxode.training import MAX_SKIPPED_IN_A_ROW, TrainState


class Run:
    """Keeps what a training run produces, and says so.

    Attributes:
        config: Its settings.
        folder: Its files.
        dataset_name: What it is trained on; `auto` until it is loaded.
        history: The objects of `metrics.jsonl`, of all epochs so far.
        reporter: Prints its lines.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        dataset_name: str,
        history: list[dict[str, Any]],
    ):
        self.config = config
        self.folder = folder
        self.dataset_name = dataset_name
        self.history = history
        self.reporter = Reporter(config.quiet)
        self._compile_seconds = 0.0

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config) -> Iterator["Run"]:
        """A new run, or the one to go on with; an empty folder is taken back.

        Raises:
            InputError: if the folder cannot be used, or the run to resume has other
                settings.
            jaxode.training.CheckpointError: if the run to resume cannot be read.
        """
        if config.resume is None:
            folder = RunFolder(new_folder(config.out, run_name(config)))
            run = cls(config, folder, config.dataset, [])
        else:
            folder, stored, content = read_run(config.resume)
            header = read_checkpoint_header(folder, stored)
            # A run that was killed in its first epoch has no checkpoint: it starts
            # again.
            history = [] if header is None else header["history"]
            check_resumed(config, stored, len(history))
            run = cls(config, folder, content["dataset"], history)
        run.reporter.info(f"device      {describe_devices()}")
        try:
            yield run
        finally:
            remove_if_empty(folder.path)

    @property
    def epochs_left(self) -> range:
        """Numbers of the epochs that are still to be trained."""
        return range(len(self.history) + 1, self.config.epochs + 1)

    def load_data(self) -> jaxode.datasets.Dataset:
        """All images of the data set.

        Raises:
            jaxode.datasets.DataError: if they cannot be had.
        """
        dataset = jaxode.datasets.load(
            self.dataset_name,
            data_dir=self.config.data_dir,
            on_notice=self.reporter.notice,
        )
        self.dataset_name = dataset.name
        return dataset

    def begin(self, data: Data, state: TrainState) -> TrainState:
        """Writes `config.json`, and puts back what an earlier call had trained.

        Raises:
            jaxode.training.CheckpointError: if its arrays are not those of `state`.
        """
        folder = self.folder
        num_parameters = count_parameters(state.model)
        self._describe(data, num_parameters)
        if self.history:
            state, _ = jaxode.training.load_checkpoint(folder.checkpoint, state)
            folder.restore_metrics(self.history)
            self.reporter.info(
                f"resumed     {folder.path} after epoch {len(self.history)}"
            )
        folder.write_config(
            self.config,
            dataset=data.name,
            train_images=len(data.train),
            scored_images=len(data.scored),
            scored_on=data.scored_on,
            parameters=num_parameters,
            **provenance(),
        )
        set_interrupt_hint(
            f"Interrupted. Go on with --resume {shlex.quote(str(folder.path))}"
        )
        return place(state, data.sharding)

    def _describe(self, data: Data, num_parameters: int) -> None:
        name = data.name
        if name == "digits":
            name = "digits (scikit-learn's 8x8 digits, NOT MNIST)"
        self.reporter.info(
            f"data set    {name}: {len(data.train):,} images to train "
            f"on, {len(data.scored):,} {data.scored_on} images"
        )
        if data.sharding is not None:
            self.reporter.info(f"devices     {describe_division(self.config, data)}")
        self.reporter.info(f"parameters  {num_parameters:,}")

    def compile(self, trainer: Trainer, state: TrainState) -> Programs:
        """The programs of an epoch; what they took goes into the next epoch's line."""
        self.reporter.info("compiling   ...")
        programs = trainer.compile(state)
        self.reporter.info(f"compiled    in {programs.compile_seconds:.1f} s")
        self._compile_seconds = programs.compile_seconds
        return programs

    def keep(self, state: TrainState, record: dict[str, Any]) -> None:
        """Writes down an epoch."""
        record["compile_seconds"] = round(self._compile_seconds, 3)
        self._compile_seconds = 0.0
        self.history.append(record)
        # In this order: what the checkpoint has, the metrics can be made to have.
        self._save(self.folder.checkpoint, state)
        self.folder.append(record)
        self.reporter.info(epoch_line(record, self.config.epochs))

    def give_up(self, stop: RunStopped) -> InputError:
        """Writes down the state of a run that cannot go on, and says what to try."""
        path = self.folder.stopped
        self._save(path, stop.state)
        if stop.totals["num_failures"]:
            why = "solves failed or reached --max-steps"
            advice = "a smaller --lr, larger --rtol and --atol, or more --max-steps"
        else:
            why = "the loss or a gradient was not finite"
            advice = "a smaller --lr, a longer --warmup-epochs, or another --seed"
        return InputError(
            f"Stopped in epoch {stop.epoch}: {MAX_SKIPPED_IN_A_ROW} updates in a row "
            f"were skipped because {why}. The state is in {path}.\n"
            f"Try, in a new run, {advice}."
        )

    def finish(self) -> dict[str, Any]:
        """Draws the curves; returns the last epoch's object of `metrics.jsonl`."""
        last, name = self.history[-1], self.dataset_name
        title = f"{name}, {run_name(self.config)}, {score(last)}"
        draw_curves(self.history, title, self.folder.curves)
        self.reporter.result(
            f"{name}: {score(last)} after {last['epoch']} epochs, "
            f"train loss {number(last['train_loss'])}, tested in "
            f"{last['test_seconds']:.2f} s; files in {self.folder.path}{os.sep}"
        )
        return last

    def _save(self, path: Path, state: TrainState) -> None:
        header = {
            "settings": stored_settings(self.config),
            "dataset": self.dataset_name,
            "epoch": len(self.history),
            "versions": versions(),
            "history": self.history,
        }
        jaxode.training.save_checkpoint(path, state, header)
