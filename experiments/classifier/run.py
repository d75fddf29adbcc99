"""A training run as its folder and the screen show it."""

import contextlib
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxode
from classifier.checkpoint import load_state, read_checkpoint, Saved
from classifier.checks import check_resumed
from classifier.config import Config
from classifier.curves import draw_curves
from classifier.data import Data, describe_division
from classifier.devices import place
from classifier.extras import require_extras
from classifier.fingerprint import require_same
from classifier.fits import run_name
from classifier.loop import Programs, RunStopped, Trainer
from classifier.origin import origin
from classifier.processes import as_any, is_first
from classifier.records import epoch_line, Part, score, what_failed
from classifier.run_folder import read_run, RunFolder, stored_settings
from classifier.setup import count_parameters
from console.command_line import InputError
from console.files import (
    keep_previous,
    make_folder,
    remove_if_empty,
    remove_leftovers,
    require_empty,
)
from console.lock import locked
from console.progress import number, Reporter
from console.provenance import describe_devices, uses_x64, versions, x64_is_on
from console.signals import Interrupted, set_interrupt_hint, stop_asked
from jaxode.training import MAX_SKIPPED_IN_A_ROW, TrainState


_SAVE_EVERY_S = 60.0


class Run:
    """Keeps what a training run produces, and says so.

    Attributes:
        config: Its settings.
        folder: Its files.
        about: What `config.json` had of it before this command; empty for a new run.
        saved: How far it has come.
        reporter: Prints its lines.
    """

    def __init__(
        self, config: Config, folder: RunFolder, about: dict[str, Any], saved: Saved
    ):
        self.config = config
        self.folder = folder
        if not about:
            about = {"dataset": config.dataset, "x64": x64_is_on()}
        self.about = {"run_id": uuid.uuid4().hex, **about}
        self.saved = saved
        self.reporter = Reporter(config.quiet)
        self._is_new = config.resume is None
        self._compile_seconds = 0.0
        self._saved_at = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config) -> Iterator["Run"]:
        """A new run, or the one to go on with; an empty folder is taken back.

        No other process has the folder meanwhile.

        Raises:
            InputError: if the folder cannot be used or is in use, or the run to resume
                has other settings or cannot be read.
        """
        require_extras(config)
        if config.resume is None:
            path = make_folder(config.out, run_name(config))
        else:
            path = read_run(config.resume)[0].path
        with locked(path):
            try:
                run = cls._begun(config, path)
                run.reporter.info(f"device      {describe_devices()}")
                yield run
            finally:
                remove_if_empty(path)

    @classmethod
    def _begun(cls, config: Config, path: Path) -> "Run":
        if config.resume is None:
            require_empty(path)
            remove_leftovers(path)
            return cls(config, RunFolder(path), {}, Saved([], None))
        # Once more, since now nobody else can change it.
        folder, stored, about = read_run(path)
        remove_leftovers(path)
        saved = read_checkpoint(folder, stored, about)
        # A run that was killed before its first checkpoint starts again.
        run = cls(config, folder, about, saved or Saved([], None))
        check_resumed(config, stored, run.saved.epochs_begun)
        if saved is None:
            run.reporter.notice(f"{path} has no checkpoint yet: it starts at epoch 1.")
        return run

    @property
    def x64(self) -> bool:
        """Whether the run is in double precision: as it was begun."""
        return uses_x64(self.about)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The objects of `metrics.jsonl`, of all epochs so far."""
        return self.saved.history

    @property
    def epochs_left(self) -> range:
        """Numbers of the epochs that are still to be trained, or to be scored."""
        return range(len(self.history) + 1, self.config.epochs + 1)

    def load_data(self) -> jaxode.datasets.Dataset | jaxode.datasets.RecordSet:
        """All images of the data set, or what they are read from.

        Raises:
            InputError: if they are not those of the run.
            jaxode.datasets.DataError: if they cannot be had.
        """
        datasets = jaxode.datasets
        load = datasets.load_records if self.config.stream else datasets.load
        dataset = load(
            self.about["dataset"],
            data_dir=self.config.data_dir,
            on_notice=self.reporter.notice,
        )
        self.about |= {"dataset": dataset.name}
        if is_first() or not self.config.stream:
            # Whoever streams reads all of it for this; the others read their parts.
            sha256 = require_same(dataset, self.about, self.folder.path)
            self.about |= {"data_sha256": sha256}
        return dataset

    def begin(self, data: Data, state: TrainState) -> TrainState:
        """Writes `config.json`, and puts back what an earlier call had trained.

        Raises:
            InputError: if the checkpoint is not what `config.json` says.
            jaxode.training.CheckpointError: if its arrays are not those of `state`.
        """
        folder, saved = self.folder, self.saved
        num_parameters = count_parameters(state.model)
        self._describe(data, num_parameters)
        if saved.history or saved.part:
            state = load_state(folder, state, saved, data.steps_per_epoch)
            folder.restore_metrics(saved.history)
            self.reporter.info(f"resumed     {folder.path} {saved}")
        facts = {
            "train_images": len(data.train),
            "scored_images": len(data.scored),
            "scored_on": data.scored_on,
            "parameters": num_parameters,
        }
        come_from = {} if self._is_new else self.about
        if self._is_new or self.epochs_left:
            facts |= origin(come_from, saved.next_part, self.reporter.notice)
        self.about = {**self.about, **facts}
        folder.write_config(self.config, **self.about)
        if is_first():
            command = shlex.join(["python", sys.argv[0], "--resume", str(folder.path)])
            set_interrupt_hint(f"Interrupted. Go on with: {command}")
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

    def after_rows(self, state: TrainState, part: Part) -> None:
        """Saves an epoch in its middle, where a signal asks for it or time has passed.

        Raises:
            Interrupted: if a signal asks for the end, when all is saved.
        """
        number = as_any(stop_asked() or 0)
        is_due = time.monotonic() - self._saved_at > _SAVE_EVERY_S
        if number or is_due:
            self.save(state, part)
        if number:
            raise Interrupted(number)

    def stop_if_asked(self) -> None:
        """Ends the run between two epochs, or before one is scored.

        Raises:
            Interrupted: if a signal asks for the end; all is saved.
        """
        number = as_any(stop_asked() or 0)
        if number:
            raise Interrupted(number)

    def save(self, state: TrainState, part: Part | None) -> None:
        """Writes the checkpoint, and keeps the one before it.

        Raises:
            InputError: if it cannot be written. The one that was there still is.
        """
        self.saved = Saved(self.history, part)
        try:
            keep_previous(self.folder.checkpoint, self.folder.previous)
            self._save(self.folder.checkpoint, state)
        except OSError as error:
            raise InputError(
                f"{self.folder.checkpoint} cannot be written "
                f"({error.strerror or error}). What was saved before is there still: "
                f"make room and go on with --resume {self.folder.path}"
            ) from error
        self._saved_at = time.monotonic()

    def keep(self, state: TrainState, record: dict[str, Any]) -> None:
        """Writes down an epoch."""
        record["compile_seconds"] = round(self._compile_seconds, 3)
        self._compile_seconds = 0.0
        self.saved = Saved([*self.history, record], None)
        # In this order: what the checkpoint has, the metrics can be made to have.
        self.save(state, None)
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
        """Draws the curves; returns the last epoch's object of `metrics.jsonl`.

        Raises:
            InputError: if nothing has been learned.
        """
        last, name = self.history[-1], self.about["dataset"]
        title = f"{name}, {run_name(self.config)}, {score(last)}"
        try:
            draw_curves(self.history, title, self.folder.curves)
        except OSError as error:
            reason = error.strerror or error
            self.reporter.notice(f"{self.folder.curves} cannot be written ({reason}).")
        files = f"files in {self.folder.path}{os.sep}"
        problem = what_failed(last)
        if problem is not None:
            raise InputError(f"The training failed: {problem}; {files}")
        self.reporter.result(
            f"{name}: {score(last)} after {last['epoch']} epochs, "
            f"train loss {number(last['train_loss'])}, tested in "
            f"{last['test_seconds']:.2f} s; {files}"
        )
        return last

    def _save(self, path: Path, state: TrainState) -> None:
        header = {
            "settings": stored_settings(self.config),
            "dataset": self.about["dataset"],
            "run_id": self.about["run_id"],
            "versions": versions(),
            **self.saved.to_header(),
        }
        form = self.config.checkpoint_format
        jaxode.training.save_checkpoint(path, state, header, form=form)
