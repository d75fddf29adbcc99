"""Group normalisation of batch-last rows `(channel, height, width*batch)` on a CPU.

All that a normalisation needs is a few numbers for each channel and image, `(channel,
batch)`; with them, it and its gradient are `factor * x + constant` at every pixel.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._conv import tree_sum


EPS = 1e-5
# Sums up to this length are written out; longer ones would only swell the program.
_WRITTEN_OUT = 64


class Moments(NamedTuple):
    """What is known about `x` for each channel and image, `(channel, batch)` each.

    Attributes:
        centre: One pixel of each image, subtracted before anything is squared.
        mean: Mean over the group, minus `centre`.
        rstd: 1 / sqrt(variance over the group + eps).
    """

    centre: Float[Array, "channel batch"]
    mean: Float[Array, "channel batch"]
    rstd: Float[Array, "channel batch"]


def tile_row(
    values: Float[Array, "channel batch"], row: int
) -> Float[Array, "channel 1 row"]:
    """Repeats one number for each image along a row of pixels."""
    return jnp.tile(values, (1, row // values.shape[1]))[:, None, :]


def sum_pixels(
    x: Float[Array, "channel height row"], batch: int
) -> Float[Array, "channel batch"]:
    """Sums over the pixels of each image, additions written out.

    XLA:CPU runs `jnp.sum` over these axes one number at a time; written out, the same
    additions run over whole vectors (four times faster).
    """
    channels, height, row = x.shape
    if height > _WRITTEN_OUT:
        line = jnp.sum(x, axis=1)
    else:
        line = tree_sum([x[:, h] for h in range(height)])
    width = row // batch
    if width > _WRITTEN_OUT:
        return jnp.sum(line.reshape(channels, width, batch), axis=1)
    return tree_sum([line[:, w * batch : (w + 1) * batch] for w in range(width)])


def mean_over_group(
    values: Float[Array, "channel batch"], groups: int
) -> Float[Array, "channel batch"]:
    """Replaces each channel's number by the mean over its group."""
    channels, batch = values.shape
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, batch)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(channels, batch)


def moments(
    x: Float[Array, "channel height row"], batch: int, groups: int
) -> Moments:
    """Mean and variance in one pass over `x`.

    The variance is the mean of squares minus the square of the mean, of `x` minus one of
    its own pixels `c`. Since (mean - c)^2 is one of the N terms whose mean is the
    variance about the mean, it is at most N times the variance, so no offset of `x`,
    however large, costs more than a factor N of rounding.
    """
    channels, height, row = x.shape
    pixels = height * (row // batch)
    middle = (row // batch) // 2 * batch
    pixel = lax.stop_gradient(x[:, height // 2, middle : middle + batch])
    centre = _first_of_group(pixel, groups)
    shifted = x - tile_row(centre, row)
    mean = mean_over_group(sum_pixels(shifted, batch) / pixels, groups)
    square = mean_over_group(sum_pixels(shifted * shifted, batch) / pixels, groups)
    variance = jnp.maximum(square - mean * mean, 0)
    return Moments(centre, mean, lax.rsqrt(variance + EPS))


def normalise(
    x: Float[Array, "channel height row"],
    known: Moments,
    scale: Float[Array, " channel"],
    offset: Float[Array, " channel"],
) -> Float[Array, "channel height row"]:
    """Normalises, scales and shifts."""
    row = x.shape[2]
    factor = known.rstd * scale[:, None]
    constant = offset[:, None] - known.mean * factor
    shifted = x - tile_row(known.centre, row)
    return shifted * tile_row(factor, row) + tile_row(constant, row)


def normalise_cotangents(
    out_bar: Float[Array, "channel height row"],
    x: Float[Array, "channel height row"],
    known: Moments,
    scale: Float[Array, " channel"],
    groups: int,
) -> tuple[
    Float[Array, "channel height row"],
    Float[Array, " channel"],
    Float[Array, " channel"],
]:
    """Gradients of `normalise(x, moments(x), scale, offset)`: of `x`, scale and offset.

    With n the normalised input and b the cotangent times scale, the input's cotangent is
    rstd * (b - mean(b) - n * mean(b * n)), means over the group.
    """
    _, height, row = x.shape
    batch = known.mean.shape[1]
    pixels = height * (row // batch)
    shifted = x - tile_row(known.centre, row)
    total = sum_pixels(out_bar, batch)
    moment = sum_pixels(out_bar * shifted, batch)
    along = (moment - known.mean * total) * known.rstd  # sum of out_bar * n
    factor = scale[:, None]
    mean_b = mean_over_group(total * factor / pixels, groups)
    mean_bn = mean_over_group(along * factor / pixels, groups)
    slope = -mean_bn * known.rstd * known.rstd
    constant = -mean_b * known.rstd - slope * known.mean
    x_bar = (
        out_bar * tile_row(known.rstd * factor, row)
        + shifted * tile_row(slope, row)
        + tile_row(constant, row)
    )
    return x_bar, jnp.sum(along, axis=1), jnp.sum(total, axis=1)


def _first_of_group(
    values: Float[Array, "channel batch"], groups: int
) -> Float[Array, "channel batch"]:
    """Gives every channel of a group the number of its first channel."""
    channels, batch = values.shape
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, batch)
    return jnp.broadcast_to(grouped[:, :1], grouped.shape).reshape(channels, batch)
