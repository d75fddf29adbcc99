"""The line of an epoch: as an object of `metrics.jsonl`, and for a person to read."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

import jaxode
from console.progress import number


@dataclasses.dataclass(frozen=True)
class Part:
    """How far an epoch has been trained.

    Attributes:
        epoch: Its number.
        row: Its steps that are done.
        seconds: What they took.
        sums: What they added up to (`sums_on_host`); `None` before the first.
    """

    epoch: int
    row: int = 0
    seconds: float = 0.0
    sums: dict[str, Any] | None = None


def sums_on_host(metrics: jaxode.training.Metrics) -> dict[str, Any]:
    """The sums as Python numbers, with the mean loss; one visit to the device."""
    fetched = jax.device_get(metrics)
    sums = {
        f.name: getattr(fetched, f.name).item() for f in dataclasses.fields(fetched)
    }
    sums["loss"] = finite(sums["loss_sum"] / sums["total"]) if sums["total"] else None
    return sums


def metrics_of(sums: dict[str, Any] | None) -> jaxode.training.Metrics:
    """The inverse of `sums_on_host`, bit for bit; zeros for `None`."""
    zeros = jaxode.training.Metrics.zeros()
    if sums is None:
        return zeros
    names = [f.name for f in dataclasses.fields(zeros)]
    arrays = {n: jnp.asarray(sums[n], getattr(zeros, n).dtype) for n in names}
    return jaxode.training.Metrics(**arrays)


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
        "rejected_steps": sums["num_rejected_steps"],
        "skipped_steps": sums["num_skipped"],
        "failed_solves": sums["num_failures"],
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
        "test_failed_solves": sums["num_failures"],
    }


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """The line of one epoch, from its object in `metrics.jsonl`."""
    parts = [
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}",
        record["dataset"],
        f"train loss {number(record['train_loss'])}",
        score(record),
        f"field calls {record['nfe_forward']:.1f} forward"
        f" {record['nfe_backward']:.1f} backward",
        f"train {record['train_seconds']:.1f} s",
        f"test {record['test_seconds']:.2f} s",
    ]
    if record["skipped_steps"]:
        parts.append(f"SKIPPED {record['skipped_steps']} updates")
    if record["test_failed_solves"]:
        parts.append(f"{record['test_failed_solves']} SOLVES FAILED in testing")
    return "  ".join(parts)


def score(record: dict[str, Any]) -> str:
    """Accuracy with its counts, and what it is of."""
    right, total = record["test_correct"], record["test_total"]
    return f"{record['scored_on']} {right / total:.2%} ({right}/{total})"


_ENOUGH_IMAGES = 50
"""A guess among ten classes misses so many in a row once in 200 times."""


def what_failed(record: dict[str, Any]) -> str | None:
    """Why an epoch, or an evaluation, has not classified anything; `None` if it has."""
    total, solves = record["test_total"], record["test_failed_solves"]
    if record.get("train_loss", 0) is None:
        return f"all of the {record['skipped_steps']} updates were skipped"
    if record["test_loss"] is None:
        return f"the {record['scored_on']} loss is not finite"
    if record["test_correct"] == 0 and (solves or total >= _ENOUGH_IMAGES):
        return f"none of the {total} {record['scored_on']} images is right"
    return None
