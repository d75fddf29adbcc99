"""The gradient of a batch, on one device or divided over several."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from .._solve.probes import value_and_grad_with_stats
from .._solve.stats import SolveCounts
from .._steps.lanes import varying_over
from .division import Division
from .metrics import as_count, loss_and_metrics, Metrics, sums


def gradient(
    params: PyTree,
    static: PyTree,
    images: Array,
    labels: Array,
    key: Key[Array, ""] | None,
) -> tuple[Array, Metrics, PyTree, SolveCounts]:
    """Loss, metrics, gradient and backward counts of a batch on one device."""

    def loss_fn(params):
        return loss_and_metrics(eqx.combine(params, static), images, labels, key=key)

    grad_fn = value_and_grad_with_stats(loss_fn, has_aux=True)
    (loss, metrics), grads, backward = grad_fn(params)
    return loss, metrics, grads, backward


def divided_gradient(
    params: PyTree,
    static: PyTree,
    images: Array,
    labels: Array,
    part: Division,
    key: Key[Array, ""] | None,
) -> tuple[Array, Metrics, PyTree, SolveCounts]:
    """The same, each device with its rows of the batch."""
    mask = part.counts()

    def loss_fn(params):
        model = part.solving(eqx.combine(params, static))
        loss_sum, penalty, metrics = sums(model, images, labels, mask, key)
        loss = loss_sum / part.samples
        if penalty is not None:
            # A mean over the device's own rows: what is returned is added up over all.
            loss += penalty / part.num_parts
        return loss, metrics

    # By parameters that vary over the mesh by their type, or JAX would add up each
    # cotangent by itself.
    grad_fn = value_and_grad_with_stats(loss_fn, has_aux=True)
    (loss, metrics), grads, backward = grad_fn(varying_over(params, (part.axis,)))
    loss, grads, numbers = part.total((loss, grads, _numbers(metrics, part)))
    if not part.joint:
        backward = _of_all(backward, part)
    return loss, _metrics(numbers), grads, backward


def total_metrics(metrics: Metrics, part: Division) -> Metrics:
    """Metrics of the whole batch, from those of each device."""
    return _metrics(part.total(_numbers(metrics, part)))


# What each device has counted for itself; the rest all have counted alike, or the mean
# over the devices is what tells.
_ADDED_UP = ("loss_sum", "correct", "total")
_FAILURES = ("num_failures", "num_rejected_steps", "num_skipped")


def _numbers(metrics: Metrics, part: Division) -> dict[str, Array]:
    """What a device gives for the sum over all, in one precision for one exchange."""
    added_up = _ADDED_UP if part.joint else _ADDED_UP + _FAILURES
    numbers = {}
    for field in dataclasses.fields(metrics):
        number = getattr(metrics, field.name).astype(jnp.float32)
        scale = 1 if field.name in added_up else part.num_parts
        numbers[field.name] = number / scale
    return numbers


def _metrics(numbers: dict[str, Array]) -> Metrics:
    like = Metrics.zeros()
    kept = {
        name: number
        if jnp.issubdtype(getattr(like, name).dtype, jnp.floating)
        else as_count(number)
        for name, number in numbers.items()
    }
    return Metrics(**kept)


def _of_all(backward: SolveCounts, part: Division) -> SolveCounts:
    """Counts that JAX has added up over the devices: what fails is, the rest a mean."""
    mean = lambda name: getattr(backward, name) / part.num_parts
    names = ("nfe", "num_solves", "reconstruction_error")
    return dataclasses.replace(backward, **{name: mean(name) for name in names})
