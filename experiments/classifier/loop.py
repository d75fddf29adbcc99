"""The epochs of a run, and the two programs that they consist of."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jaxode
from classifier.config import Config
from classifier.data import Data, scoring
from classifier.devices import place, train_batches
from classifier.networks import Network
from classifier.processes import as_the_first
from classifier.records import sums_on_host, test_record, train_record
from classifier.setup import Keys
from console.progress import Reporter, Show
from jaxode.training import (
    MAX_SKIPPED_IN_A_ROW,
    Metrics,
    TrainBatches,
    TrainData,
    TrainState,
)


_FIRST_STEPS = 2
_SECONDS_PER_CALL = 0.5


@dataclass(frozen=True)
class Programs:
    """The compiled training loop and evaluation, and what compiling them took."""

    train: Callable
    evaluate: Callable
    compile_seconds: float


class RunStopped(Exception):
    """Too many updates in a row could not be applied."""

    def __init__(self, state: TrainState, epoch: int, totals: dict[str, Any]):
        self.state = state
        self.epoch = epoch
        self.totals = totals
        super().__init__(f"stopped in epoch {epoch}")


@dataclass(frozen=True)
class Trainer:
    """Everything that stays the same from epoch to epoch."""

    config: Config
    data: Data
    optimiser: optax.GradientTransformation
    reporter: Reporter

    def compile(self, state: TrainState) -> Programs:
        """Compiles ahead of time, so that no epoch's seconds contain it.

        Training is compiled while testing is traced and compiled.
        """
        start = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Here and not in the thread, which would not see the matrix precision.
            traced = _trace(
                jaxode.training.train_steps,
                self.epoch_data(0),
                state,
                self.zeros(),
                **self._train_options(),
            )
            train = pool.submit(traced.compile)
            evaluate = scoring(
                self.config, self.data.scored, self.data.sharding
            ).compile(state.model)
            programs = train.result(), evaluate
        return Programs(*programs, compile_seconds=time.perf_counter() - start)

    def run_epoch(
        self, state: TrainState, epoch: int, programs: Programs
    ) -> tuple[TrainState, dict[str, Any]]:
        """Trains for one epoch and scores it.

        Returns:
            The new state, and the epoch's object for `metrics.jsonl`.

        Raises:
            RunStopped: if too many updates in a row were skipped.
        """
        num_images = len(self.data.train)
        title = f"epoch {epoch}/{self.config.epochs}  {self.data.name}"
        with self.reporter.epoch(title, num_images) as show:
            start = time.perf_counter()
            state, train = self._train(state, epoch, programs, show)
            train_seconds = time.perf_counter() - start
        start = time.perf_counter()
        test = self.score(state.model, programs)
        test_seconds = time.perf_counter() - start
        return state, {
            "epoch": epoch,
            "dataset": self.data.name,
            "scored_on": self.data.scored_on,
            **train_record(train),
            **test_record(test),
            "train_seconds": round(train_seconds, 4),
            "test_seconds": round(test_seconds, 4),
            "images_per_second": round(num_images / train_seconds, 2),
        }

    def score(self, model: Network, programs: Programs) -> dict[str, Any]:
        """Sums over the images to score, on the host."""
        return sums_on_host(programs.evaluate(model))

    def _train(
        self, state: TrainState, epoch: int, programs: Programs, show: Show
    ) -> tuple[TrainState, dict[str, Any]]:
        data, metrics = self.epoch_data(epoch), self.zeros()
        totals: dict[str, Any] = {}
        row, size = 0, _FIRST_STEPS
        start = now = time.perf_counter()
        while row < self.data.steps_per_epoch:
            stop = min(row + size, self.data.steps_per_epoch)
            state, metrics = self.run_rows(data, state, metrics, (row, stop), programs)
            totals = sums_on_host(metrics)
            before, now = now, time.perf_counter()
            if int(state.skipped_in_a_row) >= MAX_SKIPPED_IN_A_ROW:
                raise RunStopped(state, epoch, totals)
            size = max(1, round((stop - row) * _SECONDS_PER_CALL / (now - before)))
            size = as_the_first(size)
            row = stop
            images = min(row * self.config.batch_size, len(self.data.train))
            show(images, now - start, totals["loss"], totals["num_skipped"])
        return state, totals

    def run_rows(
        self,
        data: TrainData | TrainBatches,
        state: TrainState,
        metrics: Metrics,
        rows: tuple[int, int],
        programs: Programs,
    ) -> tuple[TrainState, Metrics]:
        """Trains on some rows of an epoch; `state` and `metrics` are donated."""
        placed = place(np.asarray(rows, np.int32), self.data.sharding)
        data = dataclasses.replace(data, rows=placed)
        return programs.train(data, state, metrics, **self._train_options())

    def epoch_data(self, epoch: int) -> TrainData | TrainBatches:
        """What the steps of an epoch read."""
        keys, train, sharding = (
            Keys.of(self.config.seed),
            self.data.train,
            self.data.sharding,
        )
        order = jaxode.training.epoch_order(
            keys.order, epoch, len(train), self.config.batch_size
        )
        if sharding is not None:
            key = keys.augmentation
            return train_batches(*train.on_host(), np.asarray(order), key, sharding)
        data = TrainData(
            images=jnp.asarray(train.images),
            labels=jnp.asarray(train.labels),
            order=order,
            rows=jnp.zeros(2, jnp.int32),
            key=keys.augmentation,
        )
        return place(data, None)

    def zeros(self) -> Metrics:
        """Metrics to start adding to."""
        return place(Metrics.zeros(), self.data.sharding)

    def _train_options(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser,
            "max_shift": self.config.shift,
            "crop": self.config.crop,
            "sharding": self.data.sharding,
            "joint": self.config.step_control == "batch",
        }


def _trace(function: Any, *arguments: Any, **options: Any) -> Any:
    """Traces a jitted function; `compile()` of the result needs no Python any more."""
    return function.lower(*arguments, **options)
