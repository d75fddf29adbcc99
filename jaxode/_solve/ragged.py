"""Samples with times of their own: two ways to solve them together.

Both take a list with the times of each sample and return arrays of one shape, with a
mask that says which entries are a sample's own.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .arguments import is_concrete


def pad_times(
    times: Sequence[Any],
) -> tuple[Float[Array, "batch longest"], Bool[np.ndarray, "batch longest"]]:
    """Samples as rows of one length, each filled up with its last time.

        ts, mask = jaxode.pad_times(times)
        solve = lambda y0, ts: jaxode.odeint(field, y0, ts, args)
        ys = jax.vmap(solve)(y0, ts).ys  # (batch, longest, ...)
        loss = jnp.sum(jnp.where(mask, (ys - data) ** 2, 0.0))

    `odeint` reads equal times as equal rows, at no further step. Under `vmap` each
    sample has steps of its own, and starts at its own first time.

    Args:
        times: For each sample its times, at least one, in order. They may be traced and
            differentiated; the last one stands for the filling too.

    Returns:
        The times, and which of them are no filling.

    Raises:
        ValueError: for no samples, or times that are not one-dimensional.
        TypeError: for integers.

    Examples:
        >>> import jaxode
        >>> ts, mask = jaxode.pad_times([[0.0, 1.0], [0.0, 0.5, 2.0]])
        >>> print(ts)
        [[0.  1.  1. ]
         [0.  0.5 2. ]]
        >>> print(mask[0])
        [ True  True False]
    """
    rows = [_checked(sample, i) for i, sample in enumerate(times)]
    if not rows:
        raise ValueError(_NO_SAMPLES)
    longest = max(len(row) for row in rows)
    fill = lambda row: jnp.concatenate([row, jnp.repeat(row[-1:], longest - len(row))])
    return jnp.stack([fill(jnp.asarray(row)) for row in rows]), _mask(rows, longest)


def union_times(
    times: Sequence[Any],
) -> tuple[
    Float[np.ndarray, " union"],
    Int[np.ndarray, "batch longest"],
    Bool[np.ndarray, "batch longest"],
]:
    """All times of all samples, for one solve whose state holds every sample.

        ts, index, mask = jaxode.union_times(times)
        ys = jaxode.odeint(field, y0, ts, args).ys  # (union, batch, ...)
        own = ys[index, jnp.arange(len(times))[:, None]]  # (batch, longest, ...)
        loss = jnp.sum(jnp.where(mask, (own - data) ** 2, 0.0))

    One sequence of steps serves all samples.

    Args:
        times: For each sample its times, known while tracing. All samples have the same
            first time, since they are one state there.

    Returns:
        The times without repetition, in order; for each sample the index of its times
        among them, filled up with its last one; and which indices are no filling.

    Raises:
        ValueError: for no samples, times that are not one-dimensional, finite and in
            one direction, or samples that do not start together.
        TypeError: for integers, or times that are traced.

    Examples:
        >>> import jaxode
        >>> ts, index, mask = jaxode.union_times([[0.0, 1.0], [0.0, 0.5, 2.0]])
        >>> print(ts)
        [0.  0.5 1.  2. ]
        >>> print(index)
        [[0 2 2]
         [0 1 3]]
    """
    samples = [_checked(sample, i) for i, sample in enumerate(times)]
    if not samples:
        raise ValueError(_NO_SAMPLES)
    if not all(is_concrete(row) for row in samples):
        raise TypeError(
            "union_times needs the values of the times, and some are traced by jax; "
            "call it outside of jax.jit and jax.grad, or use jaxode.pad_times."
        )
    rows = [np.asarray(row) for row in samples]
    longest = max(len(row) for row in rows)
    every = np.unique(np.concatenate(rows))
    falls = any(row[-1] < row[0] for row in rows)
    for i, row in enumerate(rows):
        steps = np.diff(row) * (-1 if falls else 1)
        if not (np.isfinite(row).all() and (steps >= 0).all()):
            raise ValueError(
                f"times[{i}] is {np.array2string(row, threshold=8)}; all samples need "
                "finite times in one direction, increasing or decreasing."
            )
        if row[0] != rows[0][0]:
            raise ValueError(
                f"times[{i}] starts at {row[0]} and times[0] at {rows[0][0]}; one ODE "
                "holds all samples at its first time, so give each sample that time "
                "first, or use jaxode.pad_times and jax.vmap."
            )
    fill = lambda row: np.concatenate([row, np.repeat(row[-1:], longest - len(row))])
    index = np.searchsorted(every, np.stack([fill(row) for row in rows]))
    if falls:
        every, index = every[::-1].copy(), len(every) - 1 - index
    return every, index.astype(np.int32), _mask(rows, longest)


_NO_SAMPLES = "times is empty; pass a list with the times of each sample."


def _checked(sample: Any, i: int) -> Array | np.ndarray:
    known = all(is_concrete(t) for t in jax.tree.leaves(sample))
    row = np.asarray(sample) if known else jnp.asarray(sample)
    if row.ndim != 1 or row.shape[0] < 1:
        raise ValueError(
            f"times[{i}] has shape {row.shape}; pass the times of each sample in one "
            "dimension, such as jnp.array([0.0, 0.5])."
        )
    if not jnp.issubdtype(row.dtype, jnp.floating):
        raise TypeError(
            f"times[{i}] has dtype {row.dtype}; times must be floating, such as "
            "jnp.array([0.0, 0.5])."
        )
    return row


def _mask(rows: Sequence[Array | np.ndarray], longest: int) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    return np.arange(longest)[None] < lengths[:, None]
