"""The epochs of a run, and the two programs that they consist of."""

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _config import Config
from _report import Reporter, Show
from _setup import compile_ahead, eval_batch_size, Images, Keys, lower, place
from jax.sharding import NamedSharding

import jaxode


_FIRST_STEPS = 2
_SECONDS_PER_LOOK = 0.5


@dataclass(frozen=True)
class Programs:
    """The compiled training loop and evaluation, and what compiling them took."""

    train: Callable
    evaluate: Callable
    compile_seconds: float


class RunStopped(Exception):
    """Too many updates in a row could not be applied."""

    def __init__(
        self, state: jaxode.training.TrainState, epoch: int, totals: dict[str, Any]
    ):
        self.state = state
        self.epoch = epoch
        self.totals = totals
        super().__init__(f"stopped in epoch {epoch}")


@dataclass(frozen=True)
class Trainer:
    """Everything that stays the same from epoch to epoch."""

    config: Config
    dataset_name: str
    train_set: Images
    scored_set: Images
    scored_name: str
    optimiser: optax.GradientTransformation
    reporter: Reporter
    sharding: NamedSharding | None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in one epoch; the last one is filled up."""
        return math.ceil(len(self.train_set) / self.config.batch_size)

    def compile(self, state: jaxode.training.TrainState) -> Programs:
        """Compiles ahead of time, so that no epoch's seconds contain it.

        Training is compiled while testing is traced and compiled.
        """
        start = time.perf_counter()
        scored = self.scored_set
        with ThreadPoolExecutor(max_workers=1) as pool:
            # Here and not in the thread, which would not see the matrix precision.
            traced = lower(
                jaxode.training.train_steps,
                self.data(0),
                state,
                self.zeros(),
                **self._train_options(),
            )
            train = pool.submit(traced.compile)
            evaluate = compile_ahead(
                jaxode.training.evaluate,
                state.model,
                scored.images,
                scored.labels,
                **self._test_options(),
            )
            programs = train.result(), evaluate
        return Programs(*programs, compile_seconds=time.perf_counter() - start)

    def run_epoch(
        self, state: jaxode.training.TrainState, epoch: int, programs: Programs
    ) -> tuple[jaxode.training.TrainState, dict[str, Any]]:
        """Trains for one epoch and scores it.

        Returns:
            The new state, and the epoch's object for `metrics.jsonl`.

        Raises:
            RunStopped: if too many updates in a row were skipped.
        """
        title = f"epoch {epoch}/{self.config.epochs}  {self.dataset_name}"
        with self.reporter.epoch(title, len(self.train_set)) as show:
            start = time.perf_counter()
            state, train = self._train(state, epoch, programs, show)
            train_seconds = time.perf_counter() - start
        start = time.perf_counter()
        test = self.score(state.model, programs)
        test_seconds = time.perf_counter() - start
        return state, {
            "epoch": epoch,
            "dataset": self.dataset_name,
            "scored_on": self.scored_name,
            **train_record(train),
            **test_record(test),
            "train_seconds": round(train_seconds, 4),
            "test_seconds": round(test_seconds, 4),
            "images_per_second": round(len(self.train_set) / train_seconds, 2),
        }

    def score(
        self, model: jaxode.nn.ODENet | jaxode.nn.ResidualNet, programs: Programs
    ) -> dict[str, Any]:
        """Sums over the images to score, on the host."""
        scored = self.scored_set
        metrics = programs.evaluate(
            model, scored.images, scored.labels, **self._test_options()
        )
        return on_host(metrics)

    def _train(
        self,
        state: jaxode.training.TrainState,
        epoch: int,
        programs: Programs,
        show: Show,
    ) -> tuple[jaxode.training.TrainState, dict[str, Any]]:
        data, metrics = self.data(epoch), self.zeros()
        totals: dict[str, Any] = {}
        row, size = 0, _FIRST_STEPS
        start = now = time.perf_counter()
        while row < self.steps_per_epoch:
            stop = min(row + size, self.steps_per_epoch)
            state, metrics = self.run_rows(data, state, metrics, (row, stop), programs)
            totals = on_host(metrics)
            before, now = now, time.perf_counter()
            if int(state.skipped_in_a_row) >= jaxode.training.MAX_SKIPPED_IN_A_ROW:
                raise RunStopped(state, epoch, totals)
            size = max(1, round((stop - row) * _SECONDS_PER_LOOK / (now - before)))
            row = stop
            images = min(row * self.config.batch_size, len(self.train_set))
            show(images, now - start, totals["loss"], totals["skipped_steps"])
        return state, totals

    def run_rows(
        self,
        data: jaxode.training.TrainData,
        state: jaxode.training.TrainState,
        metrics: jaxode.training.Metrics,
        rows: tuple[int, int],
        programs: Programs,
    ) -> tuple[jaxode.training.TrainState, jaxode.training.Metrics]:
        """Trains on some rows of an epoch; `state` and `metrics` are donated."""
        placed = place(jnp.asarray(rows, jnp.int32), self.sharding)
        data = dataclasses.replace(data, rows=placed)
        return programs.train(data, state, metrics, **self._train_options())

    def data(self, epoch: int) -> jaxode.training.TrainData:
        """What the steps of an epoch read."""
        keys = Keys.of(self.config.seed)
        num_images, batch_size = len(self.train_set), self.config.batch_size
        data = jaxode.training.TrainData(
            images=self.train_set.images,
            labels=self.train_set.labels,
            order=jaxode.training.epoch_order(
                keys.order, epoch, num_images, batch_size
            ),
            rows=jnp.zeros(2, jnp.int32),
            key=keys.augmentation,
        )
        return place(data, self.sharding)

    def zeros(self) -> jaxode.training.Metrics:
        """Metrics to start adding to."""
        return place(jaxode.training.Metrics.zeros(), self.sharding)

    def _train_options(self) -> dict[str, Any]:
        return {
            "optimiser": self.optimiser,
            "max_shift": self.config.shift,
            "sharding": self.sharding,
        }

    def _test_options(self) -> dict[str, Any]:
        batch_size = eval_batch_size(self.config, len(self.scored_set))
        return {"batch_size": batch_size, "sharding": self.sharding}


def on_host(metrics: jaxode.training.Metrics) -> dict[str, Any]:
    """The sums as Python numbers, with the mean loss; one visit to the device."""
    fetched = jax.device_get(metrics)
    sums = {
        f.name: getattr(fetched, f.name).item() for f in dataclasses.fields(fetched)
    }
    sums["loss"] = finite(sums["loss_sum"] / sums["total"]) if sums["total"] else None
    return sums


def finite(value: float) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if math.isfinite(value) else None


def train_record(sums: dict[str, Any]) -> dict[str, Any]:
    """What training steps contribute to a line of `metrics.jsonl`."""
    steps = sums["batches"]
    return {
        "train_loss": sums["loss"],
        "train_accuracy": sums["correct"] / sums["total"] if sums["total"] else None,
        "nfe_forward": sums["nfe_forward"] / steps,
        "nfe_backward": sums["nfe_backward"] / steps,
        "rejected_steps": sums["rejected_steps"],
        "skipped_steps": sums["skipped_steps"],
        "failed_solves": sums["failed_solves"],
        "reconstruction_error": finite(sums["reconstruction_error_sum"] / steps),
    }


def test_record(sums: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation contributes to a line of `metrics.jsonl`."""
    return {
        "test_loss": sums["loss"],
        "test_accuracy": sums["correct"] / sums["total"],
        "test_correct": sums["correct"],
        "test_total": sums["total"],
        "test_nfe": sums["nfe_forward"] / sums["batches"],
        "test_failed_solves": sums["failed_solves"],
    }
