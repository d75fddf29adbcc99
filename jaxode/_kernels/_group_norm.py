"""Group normalisation of batch-last rows `(channel, height, width*batch)`.

All that a normalisation needs is a few numbers for each channel and image; with them, it
and its gradient are `factor * x + constant` at every pixel. The numbers are kept as lines,
`(channel, width*batch)`, repeated for each column, so that those sums read whole vectors.
"""

import functools
import operator
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._conv import tree_sum
from ._dispatch import unit
from ._plain import EPS


Rows = Float[Array, "channel height row"]
Line = Float[Array, "channel row"]
PerChannel = Float[Array, " channel"]


class Moments(NamedTuple):
    """What is known about `x` for each channel and image, one line each.

    Attributes:
        mean: Mean over the group.
        rstd: 1 / sqrt(variance over the group + eps).
    """

    mean: Line
    rstd: Line


@unit("batch", "groups")
def moments(x: Rows, *, batch: int, groups: int) -> Moments:
    """Mean and variance in one pass over `x`.

    The variance is the mean of squares minus the square of the mean, of `x` minus one of
    its own pixels c. (mean - c)^2 is one of the N terms whose mean is the variance, so
    it is at most N times the variance: no offset of `x`, however large, costs more than
    a factor N of rounding.
    """
    centre = _centre(x, batch=batch, groups=groups)
    sums = _column_sums(_line_sums(x, centre), batch=batch)
    pixels = x.shape[1] * (x.shape[2] // batch)
    mean = _mean_over_group(sums[0] / pixels, groups)
    variance = _mean_over_group(sums[1] / pixels, groups) - mean * mean
    return Moments(mean + centre, lax.rsqrt(jnp.maximum(variance, 0) + EPS))


def normalise(x: Rows, known: Moments, scale: PerChannel, offset: PerChannel) -> Rows:
    """Normalises, scales and shifts."""
    factor = known.rstd * scale[:, None]
    return (x - known.mean[:, None]) * factor[:, None] + offset[:, None, None]


@unit("batch")
def cotangent_sums(
    out_bar: Rows, x: Rows, known: Moments, *, batch: int
) -> Float[Array, "2 channel row"]:
    """Sums of `out_bar`, and of its product with the normalised `x`, over an image."""
    return _column_sums(_line_products(out_bar, x, known), batch=batch)


def input_cotangent(
    out_bar: Rows,
    x: Rows,
    known: Moments,
    sums: Float[Array, "2 channel row"],
    scale: PerChannel,
    *,
    batch: int,
    groups: int,
) -> Rows:
    """Cotangent of `x` in `normalise(x, moments(x), scale, offset)`.

    With n the normalised input and b the cotangent times scale, it is
    rstd * (b - mean(b) - n * mean(b * n)), means over the group.
    """
    pixels = x.shape[1] * (x.shape[2] // batch)
    mean_b = _mean_over_group(sums[0] * (scale / pixels)[:, None], groups)
    mean_bn = _mean_over_group(sums[1] * (scale / pixels)[:, None], groups)
    along = (mean_bn * known.rstd)[:, None]
    b = out_bar * scale[:, None, None]
    inner = b - mean_b[:, None] - (x - known.mean[:, None]) * along
    return inner * known.rstd[:, None]


def parameter_cotangents(
    *sums: Float[Array, "2 channel row"], batch: int
) -> tuple[PerChannel, PerChannel]:
    """Cotangents of scale and offset, from the sums of every use of them."""
    total = functools.reduce(operator.add, [one[..., :batch] for one in sums])
    offset_bar, scale_bar = jnp.sum(total, axis=2)
    return scale_bar, offset_bar


@unit("batch", "groups")
def _centre(x: Rows, *, batch: int, groups: int) -> Line:
    """A pixel of each image; in a group, that of its first channel."""
    channels, height, row = x.shape
    middle = (row // batch) // 2 * batch
    pixel = lax.stop_gradient(x[:, height // 2, middle : middle + batch])
    if groups != channels:
        first = pixel.reshape(groups, -1, batch)[:, :1]
        pixel = jnp.repeat(first, channels // groups, axis=1).reshape(channels, batch)
    return jnp.tile(pixel, (1, row // batch))


@unit()
def _line_sums(x: Rows, centre: Line) -> Float[Array, "2 channel row"]:
    """Sums of `x - centre` and of its square over the height."""
    lines = [x[:, h] - centre for h in range(x.shape[1])]
    return jnp.stack([tree_sum(lines), tree_sum([jnp.square(line) for line in lines])])


@unit()
def _line_products(
    out_bar: Rows, x: Rows, known: Moments
) -> Float[Array, "2 channel row"]:
    """Sums of `out_bar`, and of its product with the normalised `x`, over the height."""
    lines = [out_bar[:, h] for h in range(x.shape[1])]
    products = [line * (x[:, h] - known.mean) for h, line in enumerate(lines)]
    return jnp.stack([tree_sum(lines), tree_sum(products) * known.rstd])


@unit("batch")
def _column_sums(
    lines: Float[Array, "2 channel row"], *, batch: int
) -> Float[Array, "2 channel row"]:
    """Sums over the columns, repeated in each of them."""
    row = lines.shape[2]
    total = tree_sum([lines[..., w : w + batch] for w in range(0, row, batch)])
    return jnp.tile(total, (1, 1, row // batch))


def _mean_over_group(values: Line, groups: int) -> Line:
    """Replaces each channel's number by the mean over its group."""
    channels = values.shape[0]
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, -1)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(values.shape)
