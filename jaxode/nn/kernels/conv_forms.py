"""Forms of a 3x3 convolution and its weight gradient, on batch-last images.

The general ones, those for a CPU, and those whose transposes are fast on a CPU.

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


Kernels: TypeAlias = Float[Array, "channel in_channel 3 3"]
Merged: TypeAlias = Float[Array, "channel height row"]
PaddedMerged: TypeAlias = Float[Array, "in_channel height_2 row_2"]
PaddedBar: TypeAlias = Float[Array, "channel height_2 row_2"]
# Of the one and of the other array.
Axes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


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


def weight_cotangent_product(
    z_bar: PaddedBar, padded: PaddedMerged, *, batch: int
) -> Kernels:
    """`weight_cotangent` as matrix products, one for each band of rows.

    Three column shifts of the cotangent against three row shifts of the input give all
    nine shifts from 3 + 3 copies (three products, or an im2col with its nine copies,
    take twice as long). What a shift moves from one row to the next is padding: zeros.
    """
    height = z_bar.shape[1] - 2
    copied = 3 * (z_bar.nbytes + padded.nbytes)
    bands = min(-(-copied // _BYTES_PER_BAND), _MOST_BANDS, height)
    edges = [height * k // bands for k in range(bands + 1)]
    products = [
        _shifts_product(z_bar[:, first : last + 2], padded[:, first : last + 2], batch)
        for first, last in itertools.pairwise(edges)
    ]
    return _as_kernels(tree_sum(products), len(padded))


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


def shifted_product(z_bar: PaddedBar, padded: PaddedMerged, *, batch: int) -> Kernels:
    """`weight_cotangent` as one matrix product, to be transposed in either argument."""
    return _as_kernels(_shifts_product(z_bar, padded, batch), len(padded))


def _shifts_product(
    z_bar: PaddedBar, padded: PaddedMerged, batch: int
) -> Float[Array, "3*channel 3*in_channel"]:
    """Column shifts of `z_bar` without its outer rows, times row shifts of `padded`."""
    channels, height, row = z_bar.shape
    height = height - 2
    flat = z_bar.reshape(channels, -1)
    starts = [row + (1 - dx) * batch for dx in range(3)]
    columns = jnp.stack([flat[:, start : start + height * row] for start in starts])
    rows = jnp.stack([padded[:, dy : dy + height] for dy in range(3)])
    columns, rows = columns.reshape(3 * channels, -1), rows.reshape(3 * len(padded), -1)
    return dot(columns, rows, ((1,), (1,)))


def _as_kernels(
    product: Float[Array, "channel_3 in_channel_3"], in_channels: int
) -> Kernels:
    shaped = product.reshape(3, -1, 3, in_channels)
    return jnp.transpose(shaped, (1, 3, 2, 0))


def product_of_nine(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    """`convolve` with all nine shifts of the input, to be transposed in that."""
    shifts = nine_shifts(padded, batch)
    kernel = jnp.transpose(weight, (0, 2, 3, 1)).reshape(len(weight), -1)
    out = dot(kernel, shifts.reshape(kernel.shape[1], -1), ((1,), (0,)))
    return out.reshape(-1, *shifts.shape[2:])


def product_of_three(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    """`convolve` with row shifts before and column shifts after the product.

    To be transposed in the kernels: that is `shifted_product`.
    """
    height, row = padded.shape[1] - 2, padded.shape[2] - 2 * batch
    rows = jnp.stack([padded[:, dy : dy + height] for dy in range(3)])
    kernel = jnp.transpose(weight, (3, 0, 2, 1)).reshape(-1, 3 * len(padded))
    out = dot(kernel, rows.reshape(kernel.shape[1], -1), ((1,), (0,)))
    out = out.reshape(3, len(weight), height, -1)
    parts = [out[dx, ..., dx * batch : dx * batch + row] for dx in range(3)]
    return functools.reduce(operator.add, parts)


def nine_shifts(
    padded: PaddedMerged, batch: int
) -> Float[Array, "9 channel height row"]:
    """What the nine numbers of a kernel meet."""
    height, row = padded.shape[1] - 2, padded.shape[2] - 2 * batch
    starts = itertools.product(range(3), range(0, 3 * batch, batch))
    return jnp.stack([padded[:, y : y + height, x : x + row] for y, x in starts])


def dot(a: Array, b: Array, contracted: Axes, shared: Axes = ((), ())) -> Array:
    """The product in full precision, for each place on the axes that are shared."""
    return lax.dot_general(a, b, (contracted, shared), precision=lax.Precision.HIGHEST)
