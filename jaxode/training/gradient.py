"""The gradient of a batch: at once or piece by piece, on one device or several."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from .._jax_versions import varies_over
from .._solve.probes import value_and_grad_with_stats, with_counts
from .._solve.stats import SolveCounts
from .._steps.lanes import varying_over
from .division import Division
from .layout import Layout, Places
from .metrics import as_count, loss_and_metrics, Metrics, sums


Found = tuple[Array, Metrics, PyTree, SolveCounts]
"""Loss, metrics, gradient and backward counts."""


def gradient(
    params: PyTree,
    static: PyTree,
    images: Array,
    labels: Array,
    key: Key[Array, ""] | None,
    accumulate: int = 1,
) -> Found:
    """What a step needs of a batch that is on one device.

    `accumulate` pieces follow each other, and what each needs is freed before the next:
    the memory of one is enough. Their gradients add up to that of the batch, but for
    what a solve decides: its steps are those for the images of a piece.
    """
    layout = Layout(len(labels), accumulate=accumulate)
    if layout.num_pieces > 1:
        find = _of_rows(static, layout.samples, key)
        rows = images[layout.columns], labels[layout.columns], layout.places(0)
        return _piece_by_piece(lambda *piece: find(params, *piece), rows, layout)

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
) -> Found:
    """The same, each device with its rows of the batch."""
    find = _of_rows(static, part.samples, key, part)
    # By parameters that vary over the mesh by their type, or JAX would add up each
    # cotangent by itself.
    varying = varying_over(params, (part.axis,))
    rows = images, labels, part.places()
    found = _piece_by_piece(lambda *piece: find(varying, *piece), rows, part.layout)
    loss, metrics, grads, backward = found
    numbers = _numbers(metrics, part), _numbers(backward, part)
    loss, grads, (metric_sums, backward_sums) = part.total((loss, grads, numbers))
    metrics = _counted(Metrics.zeros(), metric_sums)
    return loss, metrics, grads, _counted(SolveCounts.zeros(), backward_sums)


def _of_rows(
    static: PyTree,
    samples: int,
    key: Key[Array, ""] | None,
    part: Division | None = None,
) -> Callable[..., Found]:
    """Finds what some rows of a batch contribute to what is found of all of it."""

    def find(params: PyTree, images: Array, labels: Array, places: Places) -> Found:
        def loss_fn(params):
            model = eqx.combine(params, static)
            model = model if part is None else part.solving(model)
            loss_sum, penalty, metrics = sums(
                model, images, labels, places.counts, key, (places, samples)
            )
            loss = loss_sum / samples
            return loss if penalty is None else loss + penalty, metrics

        axes = () if part is None else (part.axis,)
        zeros = lambda: varying_over(SolveCounts.zeros(), axes)
        (loss, metrics), grads, backward = with_counts(loss_fn, True, zeros)(params)
        return loss, metrics, grads, backward

    return find


def _piece_by_piece(
    find: Callable[..., Found], rows: tuple[Array, Array, Places], layout: Layout
) -> Found:
    """Adds up what is found of each piece."""
    images, labels, places = rows
    shape = layout.num_pieces, layout.rows
    if len(labels) != layout.num_pieces * layout.rows:
        raise ValueError(
            f"A device has {len(labels)} rows of each batch, and of {layout.samples} "
            f"images on {layout.num_parts} devices in {layout.num_pieces} pieces it is "
            f"to have {layout.num_pieces * layout.rows}: choose them by "
            f"batch_columns({layout.samples}, {layout.num_parts}, {layout.accumulate})."
        )
    pieces = (
        images.reshape(*shape, *images.shape[1:]),
        labels.reshape(shape),
        places,
    )
    first = jax.tree.map(lambda x: x[0], pieces)
    if layout.num_pieces == 1:
        return find(*first)
    zeros = jax.tree.map(_zeros_like, jax.eval_shape(find, *first))

    def add(total: Found, piece: Any) -> tuple[Found, None]:
        return jax.tree.map(jnp.add, total, find(*piece)), None

    return jax.lax.scan(add, zeros, pieces)[0]


def _zeros_like(kind: Any) -> Array:
    """Zeros of a shape, varying over the axes of the mesh that it varies over."""
    return varying_over(jnp.zeros(kind.shape, kind.dtype), varies_over(kind))


def total_metrics(metrics: Metrics, part: Division) -> Metrics:
    """Metrics of the whole batch, from those of each device."""
    return _counted(Metrics.zeros(), part.total(_numbers(metrics, part)))


# What each device has counted for itself; the rest all have counted alike, or the mean
# over the devices is what tells.
_ADDED_UP = ("loss_sum", "correct", "total")
_FAILURES = (
    *("num_failures", "num_rejected_steps", "num_skipped"),
    *("num_max_steps", "num_non_finite", "num_underflow", "num_other_failures"),
)


def _numbers(counted: Metrics | SolveCounts, part: Division) -> dict[str, Array]:
    """What a device gives for the sum over all, in one precision for one exchange."""
    added_up = _ADDED_UP if part.joint else _ADDED_UP + _FAILURES
    numbers = {}
    for field in dataclasses.fields(counted):
        number = getattr(counted, field.name).astype(jnp.float32)
        scale = 1 if field.name in added_up else part.num_parts
        numbers[field.name] = number / scale
    return numbers


_Counted = TypeVar("_Counted", Metrics, SolveCounts)


def _counted(zeros: _Counted, numbers: dict[str, Array]) -> _Counted:
    kept = {
        name: number
        if jnp.issubdtype(getattr(zeros, name).dtype, jnp.floating)
        else as_count(number)
        for name, number in numbers.items()
    }
    return dataclasses.replace(zeros, **kept)
