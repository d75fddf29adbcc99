"""3x3 convolution on batch-last images: general form, and written out for a CPU.

A row of pixels and its batch form ONE axis: `(channel, height, width*batch)`. XLA:CPU
turns each fusion into loops over the output's axes, and LLVM unrolls a minor axis of
16 or 32 completely before it looks for vectors, so a batch of 16 as an axis of its own
runs in scalar code, several times slower. A row is long, and a shift by one pixel is a
contiguous slice of it.
"""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .dispatch import by_platform


Kernels: TypeAlias = Float[Array, "channel in_channel 3 3"]
Merged: TypeAlias = Float[Array, "channel height row"]
PaddedMerged: TypeAlias = Float[Array, "in_channel height_2 row_2"]
PaddedBar: TypeAlias = Float[Array, "channel height_2 row_2"]


# 3 x 9 numbers, one register each, of the 32 that AVX-512 has.
_CHANNELS_PER_PASS = 3
_PASSES_WRITTEN_OUT = 3

# The weight gradient's copies are made and used in bands of rows. Those of one band
# then stay in a core's own cache of a megabyte or more. Each band is a matrix product.
_BYTES_PER_BAND = 600_000
_MOST_BANDS = 8


def tree_sum(terms: Sequence[Array]) -> Array:
    """Adds arrays pairwise: short chains of dependence, and less rounding."""
    level = list(terms)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def pad_rows(
    x: Float[Array, "channel height row"], batch: int
) -> Float[Array, "channel height_2 row_2"]:
    """Adds a pixel of zeros on all four sides."""
    return jnp.pad(x, ((0, 0), (1, 1), (batch, batch)))


@noinline("batch")
def convolve(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    """Cross-correlates with 3x3 kernels (what networks call a convolution).

    Args:
        padded: Input, with the pixels around it that the kernels reach.
        weight: Kernels, output channel first.
        batch: Number of images in a row.

    Returns:
        Two pixels less in height and width than `padded`.
    """
    form = by_platform(convolve_written_out, convolve_general, max(weight.shape[:2]))
    return form(padded, weight, batch=batch)


def convolve_written_out(
    padded: PaddedMerged, weight: Kernels, *, batch: int
) -> Merged:
    """`convolve` as shifted multiply-adds, in passes of a few input channels each.

    With more input channels in a pass the 9 numbers for each no longer fit in the
    processor's registers, and every product would read its number from memory again.
    Many passes are a loop, so that the compiled program does not grow with the width.
    """
    channels, size = padded.shape[0], _CHANNELS_PER_PASS
    whole, rest = divmod(channels, size)
    head = rest or size
    total = _one_pass(padded, weight, first=0, count=head, batch=batch)
    if whole <= _PASSES_WRITTEN_OUT:
        for first in range(head, channels, size):
            total = _one_pass(
                padded, weight, total, first=first, count=size, batch=batch
            )
        return total

    def add_pass(k: Array, total: Merged) -> Merged:
        start = head + k * size
        part = lax.dynamic_slice_in_dim(padded, start, size)
        kernels = lax.dynamic_slice_in_dim(weight, start, size, axis=1)
        return _one_pass(part, kernels, total, first=0, count=size, batch=batch)

    return lax.fori_loop(0, (channels - head) // size, add_pass, total)


@noinline("first", "count", "batch")
def _one_pass(
    padded: PaddedMerged,
    weight: Kernels,
    total: Merged | None = None,
    *,
    first: int,
    count: int,
    batch: int,
) -> Merged:
    """Adds to `total` what `count` input channels from `first` on contribute.

    One sum for each input channel, then the sums: a single running sum would wait four
    cycles for each product.
    """
    height = padded.shape[1] - 2
    row = padded.shape[2] - 2 * batch

    def from_channel(i: int) -> Array:
        terms = []
        for dy, dx in itertools.product(range(3), range(3)):
            left = dx * batch
            shifted = padded[i, dy : dy + height, left : left + row][None]
            terms.append(weight[:, i, dy, dx][:, None, None] * shifted)
        return functools.reduce(operator.add, terms)

    out = tree_sum([from_channel(i) for i in range(first, first + count)])
    return out if total is None else total + out


def convolve_general(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    """`convolve` by `lax.conv_general_dilated`."""
    out = lax.conv_general_dilated(
        _pixels(padded, batch),
        weight,
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "OIHW", "CHWN"),
        precision=lax.Precision.HIGHEST,
    )
    return out.reshape(*out.shape[:2], -1)


def transposed(weight: Kernels) -> Float[Array, "in_channel channel 3 3"]:
    """The kernels whose convolution is the adjoint map of the given ones."""
    return jnp.flip(jnp.swapaxes(weight, 0, 1), (2, 3))


@noinline("batch")
def weight_cotangent(z_bar: PaddedBar, padded: PaddedMerged, *, batch: int) -> Kernels:
    """Gradient of `convolve` with respect to its kernels.

    Args:
        z_bar: Cotangent of the convolution's output, padded with a pixel of zeros.
        padded: The convolution's input.
        batch: Number of images in a row.

    Returns:
        The kernels' cotangent.
    """
    width = max(z_bar.shape[0], padded.shape[0])
    form = by_platform(weight_cotangent_product, weight_cotangent_general, width)
    return form(z_bar, padded, batch=batch)


def weight_cotangent_product(
    z_bar: PaddedBar, padded: PaddedMerged, *, batch: int
) -> Kernels:
    """`weight_cotangent` as matrix products, one for each band of rows.

    Three column shifts of the cotangent against three row shifts of the input give all
    nine shifts from 3 + 3 copies (three products, or an im2col with its nine copies,
    take twice as long). What a shift moves from one row to the next is padding: zeros.
    """
    channels, in_channels = z_bar.shape[0], padded.shape[0]
    height = z_bar.shape[1] - 2
    copied = 3 * (z_bar.nbytes + padded.nbytes)
    bands = min(-(-copied // _BYTES_PER_BAND), _MOST_BANDS, height)
    edges = [height * k // bands for k in range(bands + 1)]
    products = [
        _products(z_bar[:, first : last + 2], padded[:, first : last + 2], batch)
        for first, last in itertools.pairwise(edges)
    ]
    shaped = tree_sum(products).reshape(3, channels, 3, in_channels)
    return jnp.transpose(shaped, (1, 3, 2, 0))


def _products(
    z_bar: PaddedBar, padded: PaddedMerged, batch: int
) -> Float[Array, "3*channel 3*in_channel"]:
    """Column shifts of `z_bar` without its outer rows, times row shifts of `padded`."""
    channels, height, row = z_bar.shape
    height = height - 2
    flat = z_bar.reshape(channels, -1)
    starts = [row + (1 - dx) * batch for dx in range(3)]
    columns = jnp.stack([flat[:, start : start + height * row] for start in starts])
    rows = jnp.stack([padded[:, dy : dy + height] for dy in range(3)])
    return lax.dot_general(
        columns.reshape(3 * channels, -1),
        rows.reshape(3 * padded.shape[0], -1),
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )


def weight_cotangent_general(
    z_bar: PaddedBar, padded: PaddedMerged, *, batch: int
) -> Kernels:
    """`weight_cotangent` as a convolution whose kernels are the cotangent."""
    return lax.conv_general_dilated(
        _pixels(padded, batch),
        _pixels(z_bar, batch)[:, 1:-1, 1:-1],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "OHWI", "CNHW"),
        precision=lax.Precision.HIGHEST,
    )


def _pixels(x: Float[Array, "channel height row"], batch: int) -> Array:
    return x.reshape(*x.shape[:2], -1, batch)
