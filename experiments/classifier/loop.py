"""The epochs of a run, and the two programs that they consist of."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxode
from classifier.config import Config
from classifier.data import Data, Images, scoring
from classifier.devices import place, train_batches
from classifier.networks import learned_end, Network
from classifier.processes import as_the_first
from classifier.records import (
    metrics_of,
    Part,
    sums_on_host,
    test_record,
    train_record,
)
from classifier.setup import Keys
from console.host_memory import require_host_memory
from console.progress import Reporter
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

        Raises:
            InputError: if a step needs more memory than there is.
        """
        start = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Here and not in the thread, which would not see the matrix precision.
            traced = _trace(
                jaxode.training.train_steps,
                self._example(),
                state,
                self.zeros(),
                **self._train_options(),
            )
            train = pool.submit(traced.compile)
            evaluate = scoring(
                self.config, self.data.scored, self.data.sharding
            ).compile(state.model)
            programs = train.result(), evaluate
        self._require_memory(programs[0])
        return Programs(*programs, compile_seconds=time.perf_counter() - start)

    def _require_memory(self, train: Any) -> None:
        needed = temporary_bytes(train)
        if needed is None or jax.default_backend() != "cpu":
            return
        # The compiler speaks of one device, and all of a process share its memory.
        sharding = self.data.sharding
        count = 1 if sharding is None else len(sharding.addressable_devices)
        require_host_memory("A training step", needed * count)

    def train_epoch(
        self,
        state: TrainState,
        part: Part,
        programs: Programs,
        after_rows: Callable[[TrainState, Part], None],
    ) -> tuple[TrainState, Part]:
        """Trains for the rest of an epoch.

        Args:
            state: The state where `part` ends.
            part: What of the epoch is done already.
            programs: From `compile`.
            after_rows: Called about twice a second, between two steps. Where it raises,
                training ends, and what it was given is all there is to keep.

        Returns:
            The new state, and the whole epoch.

        Raises:
            RunStopped: if too many updates in a row were skipped.
        """
        num_images = len(self.data.train)
        title = f"epoch {part.epoch}/{self.config.epochs}  {self.data.name}"
        with self.reporter.epoch(title, num_images) as show:
            now = time.perf_counter()
            metrics = place(metrics_of(part.sums), self.data.sharding)
            size = _FIRST_STEPS
            for first, stop, data in self._stretches(part):
                while part.row < stop:
                    rows = part.row - first, min(part.row + size, stop) - first
                    state, metrics = self.run_rows(data, state, metrics, rows, programs)
                    sums = sums_on_host(metrics)
                    if int(state.skipped_in_a_row) >= MAX_SKIPPED_IN_A_ROW:
                        raise RunStopped(state, part.epoch, sums)
                    before, now = now, time.perf_counter()
                    took = now - before
                    size = max(1, round((rows[1] - rows[0]) * _SECONDS_PER_CALL / took))
                    size = as_the_first(size)
                    row = first + rows[1]
                    part = Part(part.epoch, row, part.seconds + took, sums)
                    images = min(part.row * self.config.batch_size, num_images)
                    show(images, part.seconds, sums["loss"], sums["num_skipped"])
                    after_rows(state, part)
        return state, part

    def score_epoch(
        self, state: TrainState, part: Part, programs: Programs
    ) -> dict[str, Any]:
        """The object for `metrics.jsonl` of an epoch that has been trained."""
        assert part.sums is not None
        start = time.perf_counter()
        test = self.score(state.model, programs)
        seconds = time.perf_counter() - start
        return {
            "epoch": part.epoch,
            "dataset": self.data.name,
            "scored_on": self.data.scored_on,
            **train_record(part.sums),
            **test_record(test),
            "train_seconds": round(part.seconds, 4),
            "test_seconds": round(seconds, 4),
            "images_per_second": round(len(self.data.train) / part.seconds, 2),
            "temporary_bytes": temporary_bytes(programs.train),
            **learned_end(state.model),
        }

    def score(self, model: Network, programs: Programs) -> dict[str, Any]:
        """Sums over the images to score, on the host."""
        return sums_on_host(programs.evaluate(model))

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
        """What the steps of an epoch read, of images in memory."""
        train, sharding = self.data.train, self.data.sharding
        assert isinstance(train, Images)
        key, order = self._key, self._order(epoch)
        if sharding is not None:
            given = *train.on_host(), np.asarray(order), key, sharding
            return train_batches(*given, self.config.accumulate)
        data = TrainData(
            images=jnp.asarray(train.images),
            labels=jnp.asarray(train.labels),
            order=order,
            rows=jnp.zeros(2, jnp.int32),
            key=key,
        )
        return place(data, None)

    def _stretches(
        self, part: Part
    ) -> Iterator[tuple[int, int, TrainData | TrainBatches]]:
        """What is left of an epoch: from which row to which, and what they read."""
        stop = self.data.steps_per_epoch
        if isinstance(self.data.train, Images):
            yield 0, stop, self.epoch_data(part.epoch)
            return
        order = np.asarray(self._order(part.epoch))
        stretches = self.data.train.stretches(
            order, part.row, self._key, self.data.sharding
        )
        for first, data in stretches:
            yield first, min(first + len(data.labels), stop), data

    def _example(self) -> TrainData | TrainBatches:
        """What a program of training is compiled for."""
        if isinstance(self.data.train, Images):
            return self.epoch_data(0)
        order = np.asarray(self._order(0))
        return self.data.train.example(order, self._key, self.data.sharding)

    @property
    def _key(self) -> Any:
        return Keys.of(self.config.seed).augmentation

    def _order(self, epoch: int) -> Any:
        key = Keys.of(self.config.seed).order
        size, batch = len(self.data.train), self.config.batch_size
        return jaxode.training.epoch_order(key, epoch, size, batch)

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
            "accumulate": self.config.accumulate,
        }


def _trace(function: Any, *arguments: Any, **options: Any) -> Any:
    """Traces a jitted function; `compile()` of the result needs no Python any more."""
    return function.lower(*arguments, **options)


def temporary_bytes(program: Any) -> int | None:
    """What a compiled program allocates beside inputs and outputs, if it says so."""
    analysis = program.compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes
