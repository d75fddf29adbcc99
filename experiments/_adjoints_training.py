"""Networks for the comparison: trained here, each at most once, or given as a run."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
from _adjoints_config import Sizes
from _command_line import InputError
from _config import Config
from _loop import on_host, Programs, test_record, train_record, Trainer
from _report import Reporter
from _run_folder import read_run
from _setup import (
    build_model,
    build_optimiser,
    Images,
    Keys,
    place,
    read_checkpoint_header,
    split_data,
)

import jaxode


@dataclass(frozen=True)
class Variant:
    """One training: the recipe, and what stands between stem and head.

    Attributes:
        name: For tables and legends.
        config: The recipe, with the settings of the solve.
        block: The ODE block, residual blocks with one field or with a field each, or
            nothing.
        blocks: Number of residual blocks.
    """

    name: str
    config: Config
    block: Literal["ode", "tied", "untied", "none"] = "ode"
    blocks: int = 0

    def build(self) -> jaxode.nn.ODENet | jaxode.nn.ResidualNet:
        """The untrained network."""
        if self.block == "ode":
            return build_model(self.config)
        return jaxode.nn.ResidualNet(
            self.config.channels,
            key=Keys.of(self.config.seed).model,
            num_blocks=self.blocks,
            tied=self.block == "tied",
        )


@dataclass(frozen=True)
class Trained:
    """A network and how it came about.

    Attributes:
        name: As in `Variant`.
        config: As in `Variant`.
        model: The network.
        looks: Means over each of the stretches that training is looked at in.
        test: Score on the test images, and seconds; empty for a network that was given.
        failure: Why training ended early, if it did.
    """

    name: str
    config: Config
    model: Any
    looks: list[dict[str, Any]]
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
            looks, reporter = self._sizes.looks, self._reporter
            trained = train(variant, self._dataset, looks, reporter)
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
    variant: Variant, dataset: jaxode.datasets.Dataset, looks: int, reporter: Reporter
) -> Trained:
    """Trains a variant, looking at the counts at even distances, and scores it."""
    config = variant.config
    trainer = _trainer(config, dataset, reporter)
    state = jaxode.training.TrainState.create(variant.build(), trainer.optimiser)
    state = place(state, None)
    programs = trainer.compile(state)
    records: list[dict[str, Any]] = []
    for record, after in _look_after_look(trainer, state, programs, looks):
        state = after
        records.append(record)
    start = time.perf_counter()
    score = test_record(trainer.score(state.model, programs))
    test = {
        **score,
        "test_seconds": time.perf_counter() - start,
        "parameters": count_parameters(state.model),
        "train_images": len(trainer.train_set),
        "epochs": config.epochs,
        "train_seconds": sum(record["seconds"] for record in records),
        "compile_seconds": programs.compile_seconds,
    }
    failure = None
    if int(state.skipped_in_a_row) >= jaxode.training.MAX_SKIPPED_IN_A_ROW:
        failure = (
            f"{jaxode.training.MAX_SKIPPED_IN_A_ROW} updates in a row were skipped"
        )
    return Trained(variant.name, config, state.model, records, test, failure)


def _look_after_look(
    trainer: Trainer, state: jaxode.training.TrainState, programs: Programs, looks: int
) -> Iterator[tuple[dict[str, Any], jaxode.training.TrainState]]:
    steps, epochs = trainer.steps_per_epoch, trainer.config.epochs
    size = max(1, round(steps * epochs / looks))
    with trainer.reporter.epoch("training", len(trainer.train_set) * epochs) as show:
        begin = time.perf_counter()
        for epoch in range(1, epochs + 1):
            data = trainer.data(epoch)
            for row in range(0, steps, size):
                rows = row, min(row + size, steps)
                start = time.perf_counter()
                state, metrics = trainer.run_rows(
                    data, state, trainer.zeros(), rows, programs
                )
                sums = on_host(metrics)
                end = time.perf_counter()
                done = epoch - 1 + rows[1] / steps
                middle = epoch - 1 + (rows[0] + rows[1]) / 2 / steps
                images = round(done * len(trainer.train_set))
                show(images, end - begin, sums["loss"], sums["skipped_steps"])
                record = {"epochs": done, "middle": middle, "seconds": end - start}
                yield record | train_record(sums), state
                if int(state.skipped_in_a_row) >= jaxode.training.MAX_SKIPPED_IN_A_ROW:
                    return


def _trainer(
    config: Config, dataset: jaxode.datasets.Dataset, reporter: Reporter
) -> Trainer:
    train_split, scored_split, scored_name = split_data(config, dataset)
    train_set = Images(*place(tuple(train_split), None))
    steps_per_epoch = -(-len(train_set) // config.batch_size)
    return Trainer(
        config=config,
        dataset_name=dataset.name,
        train_set=train_set,
        scored_set=Images(*place(tuple(scored_split), None)),
        scored_name=scored_name,
        optimiser=build_optimiser(config, steps_per_epoch),
        reporter=reporter,
        sharding=None,
    )


def load_run(path: Path, dataset: jaxode.datasets.Dataset) -> Trained:
    """The network of a run of `mnist.py`.

    Raises:
        InputError: if the folder is no run, has no checkpoint yet, or was trained on
            other images.
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    folder, stored, content = read_run(path)
    if content["dataset"] != dataset.name:
        raise InputError(
            f"--run {path} was trained on {content['dataset']}, and the images here "
            f"are {dataset.name}: pass --dataset {content['dataset']}."
        )
    if read_checkpoint_header(folder, stored) is None:
        raise InputError(f"--run {path} has no checkpoint: no epoch was completed.")
    # The optimiser decides the structure of the checkpoint, not the weights.
    optimiser = build_optimiser(stored, steps_per_epoch=1)
    state = jaxode.training.TrainState.create(build_model(stored), optimiser)
    state, _ = jaxode.training.load_checkpoint(folder.checkpoint, state)
    return Trained(f"run {path.name}", stored, state.model, [], {})


def count_parameters(model: Any) -> int:
    """Numbers that are trained."""
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
