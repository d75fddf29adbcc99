"""Networks for the comparison: trained here, each at most once, or given as a run."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxode
from adjoint_study.config import Sizes
from classifier.checkpoint import load_model, read_checkpoint
from classifier.config import Config
from classifier.data import Data
from classifier.devices import place
from classifier.loop import Programs, Trainer
from classifier.records import sums_on_host, test_record, train_record
from classifier.run_folder import read_run
from classifier.setup import build_model, build_optimiser, count_parameters
from console.command_line import InputError
from console.progress import Reporter
from jaxode.training import MAX_SKIPPED_IN_A_ROW, TrainState


@dataclass(frozen=True)
class Variant:
    """One training: the recipe, and what stands between stem and head.

    Attributes:
        name: For tables and legends.
        config: The recipe, with the model and the settings of its solve.
    """

    name: str
    config: Config


@dataclass(frozen=True)
class Trained:
    """A network and how it came about.

    Attributes:
        name: As in `Variant`.
        config: As in `Variant`.
        model: The network.
        stretches: Means over each of the parts that training is looked at in.
        test: Score on the test images, and seconds; empty for a network that was given.
        failure: Why training ended early, if it did.
    """

    name: str
    config: Config
    model: Any
    stretches: list[dict[str, Any]]
    test: dict[str, Any]
    failure: str | None = None


def ode_variant(recipe: Config, tolerance: float) -> Variant:
    """The post's network, trained with backsolve at a tolerance."""
    config = dataclasses.replace(recipe, rtol=tolerance, atol=tolerance)
    return Variant(f"trained at {tolerance:g}", config)


class Networks:
    """Trains each variant when it is first asked for, and remembers it.

    Attributes:
        recipe: The settings that every training starts from.
        given: The network of the run that the user named, if any.
    """

    def __init__(
        self,
        dataset: jaxode.datasets.Dataset,
        sizes: Sizes,
        run: Path | None,
        reporter: Reporter,
    ):
        self.recipe = dataclasses.replace(sizes.recipe, dataset=dataset.name)
        self.given = None if run is None else load_run(run, dataset)
        self._sizes, self._dataset, self._reporter = sizes, dataset, reporter
        self._trained: dict[Variant, Trained] = {}

    def train(self, variant: Variant) -> Trained:
        """The trained network of a variant."""
        if variant not in self._trained:
            stretches, reporter = self._sizes.stretches, self._reporter
            trained = train(variant, self._dataset, stretches, reporter)
            self._trained[variant] = trained
            right = trained.test["test_accuracy"]
            seconds = trained.test["train_seconds"]
            reporter.info(f"  {variant.name}: {right:.2%}, trained in {seconds:.1f} s")
        return self._trained[variant]

    def at_tolerances(self) -> list[Trained]:
        """The post's network, trained at every tolerance of the comparison."""
        tolerances = self._sizes.trained_at
        return [self.train(ode_variant(self.recipe, tol)) for tol in tolerances]

    def usual(self) -> Trained:
        """The network that was given, or one trained at the post's tolerance."""
        if self.given is not None:
            return self.given
        return self.train(ode_variant(self.recipe, self._sizes.trained_at[0]))


def train(
    variant: Variant,
    dataset: jaxode.datasets.Dataset,
    stretches: int,
    reporter: Reporter,
) -> Trained:
    """Trains a variant, counting within so many stretches, and scores it."""
    config = variant.config
    data = Data.of(config, dataset, all_devices=False)
    optimiser = build_optimiser(config, data.steps_per_epoch)
    trainer = Trainer(config, data, optimiser, reporter)
    state = place(TrainState.create(build_model(config), optimiser), None)
    programs = trainer.compile(state)
    records: list[dict[str, Any]] = []
    for record, after in _stretch_by_stretch(trainer, state, programs, stretches):
        state = after
        records.append(record)
    start = time.perf_counter()
    score = test_record(trainer.score(state.model, programs))
    test = {
        **score,
        "test_seconds": time.perf_counter() - start,
        "parameters": count_parameters(state.model),
        "train_images": len(data.train),
        "epochs": config.epochs,
        "train_seconds": sum(record["seconds"] for record in records),
        "compile_seconds": programs.compile_seconds,
    }
    failure = None
    if int(state.skipped_in_a_row) >= MAX_SKIPPED_IN_A_ROW:
        failure = f"{MAX_SKIPPED_IN_A_ROW} updates in a row were skipped"
    return Trained(variant.name, config, state.model, records, test, failure)


def _stretch_by_stretch(
    trainer: Trainer, state: TrainState, programs: Programs, stretches: int
) -> Iterator[tuple[dict[str, Any], TrainState]]:
    """Counts and seconds of each stretch, and the state after it."""
    steps, epochs = trainer.data.steps_per_epoch, trainer.config.epochs
    num_images = len(trainer.data.train)
    size = max(1, round(steps * epochs / stretches))
    with trainer.reporter.epoch("training", num_images * epochs) as show:
        begin = time.perf_counter()
        for epoch in range(1, epochs + 1):
            data = trainer.epoch_data(epoch)
            for row in range(0, steps, size):
                rows = row, min(row + size, steps)
                start = time.perf_counter()
                state, metrics = trainer.run_rows(
                    data, state, trainer.zeros(), rows, programs
                )
                sums = sums_on_host(metrics)
                end = time.perf_counter()
                done = epoch - 1 + rows[1] / steps
                middle = epoch - 1 + (rows[0] + rows[1]) / 2 / steps
                images = round(done * num_images)
                show(images, end - begin, sums["loss"], sums["num_skipped"])
                record = {"epochs": done, "middle": middle, "seconds": end - start}
                yield record | train_record(sums), state
                if int(state.skipped_in_a_row) >= MAX_SKIPPED_IN_A_ROW:
                    return


def load_run(path: Path, dataset: jaxode.datasets.Dataset) -> Trained:
    """The network of a run of `mnist.py`.

    Raises:
        InputError: if the folder is no run, has no checkpoint yet, or was trained on
            other images.
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    folder, stored, about = read_run(path)
    if about["dataset"] != dataset.name:
        raise InputError(
            f"--run {path} was trained on {about['dataset']}, and the images here "
            f"are {dataset.name}: pass --dataset {about['dataset']}."
        )
    if read_checkpoint(folder, stored, about) is None:
        raise InputError(f"--run {path} has no checkpoint: no epoch was completed.")
    return Trained(f"run {path.name}", stored, load_model(folder, stored), [], {})
