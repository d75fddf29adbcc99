"""Group normalisation of batch-last rows `(channel, height, width*batch)`.

All that a normalisation needs is a few numbers for each channel and image; with them, it
and its gradient are `factor * x + constant` at every pixel. The numbers are kept as lines,
`(channel, width*batch)`, repeated for each column, so that those sums read whole vectors.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ._conv import tree_sum
from ._dispatch import unit
from ._plain import EPS


# Sums up to this length are written out; longer ones would only swell the program.
_WRITTEN_OUT = 64

Rows = Float[Array, "channel height row"]
Line = Float[Array, "channel row"]
PerChannel = Float[Array, " channel"]


class Moments(NamedTuple):
    """What is known about `x` for each channel and image, one line each.

    Attributes:
        centre: A pixel of each image, subtracted before anything is squared.
        mean: Mean over the group, minus `centre`.
        rstd: 1 / sqrt(variance over the group + eps).
    """

    centre: Line
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
    _, height, row = x.shape
    pixels = height * (row // batch)
    centre = _centre(x, batch=batch, groups=groups)
    total, squares = _line_sums(x, centre)
    mean = _mean_over_group(_column_sums(total, batch=batch) / pixels, groups)
    square = _mean_over_group(_column_sums(squares, batch=batch) / pixels, groups)
    variance = jnp.maximum(square - mean * mean, 0)
    return Moments(centre, mean, lax.rsqrt(variance + EPS))


def normalise(x: Rows, known: Moments, scale: PerChannel, offset: PerChannel) -> Rows:
    """Normalises, scales and shifts."""
    factor = known.rstd * scale[:, None]
    constant = offset[:, None] - known.mean * factor
    return (x - known.centre[:, None]) * factor[:, None] + constant[:, None]


@unit("batch", "groups")
def normalise_cotangents(
    out_bar: Rows,
    x: Rows,
    known: Moments,
    scale: PerChannel,
    *,
    batch: int,
    groups: int,
) -> tuple[Rows, PerChannel, PerChannel]:
    """Gradients of `normalise(x, moments(x), scale, offset)`: of `x`, scale and offset."""
    total, moment = _line_products(out_bar, x, known.centre)
    total = _column_sums(total, batch=batch)
    moment = _column_sums(moment, batch=batch)
    factor, slope, constant, along = _cotangent_lines(
        total, moment, known, scale, pixels=x.shape[1] * (x.shape[2] // batch), groups=groups
    )
    x_bar = (
        out_bar * factor[:, None]
        + (x - known.centre[:, None]) * slope[:, None]
        + constant[:, None]
    )
    return x_bar, jnp.sum(along[:, :batch], axis=1), jnp.sum(total[:, :batch], axis=1)


@unit("pixels", "groups")
def _cotangent_lines(
    total: Line,
    moment: Line,
    known: Moments,
    scale: PerChannel,
    *,
    pixels: int,
    groups: int,
) -> tuple[Line, Line, Line, Line]:
    """What `out_bar`, `x` and one are multiplied by; and the cotangent of `scale`.

    With n the normalised input and b the cotangent times scale, the input's cotangent is
    rstd * (b - mean(b) - n * mean(b * n)), means over the group.
    """
    along = (moment - known.mean * total) * known.rstd  # sum of out_bar * n
    mean_b = _mean_over_group(total * scale[:, None] / pixels, groups)
    mean_bn = _mean_over_group(along * scale[:, None] / pixels, groups)
    slope = -mean_bn * known.rstd * known.rstd
    constant = -mean_b * known.rstd - slope * known.mean
    return known.rstd * scale[:, None], slope, constant, along


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
def _line_sums(x: Rows, centre: Line) -> tuple[Line, Line]:
    """Sums of `x - centre` and of its square over the height."""
    lines = [x[:, h] - centre for h in range(x.shape[1])]
    return tree_sum(lines), tree_sum([jnp.square(line) for line in lines])


@unit()
def _line_products(out_bar: Rows, x: Rows, centre: Line) -> tuple[Line, Line]:
    """Sums of `out_bar`, and of its product with `x - centre`, over the height."""
    lines = [out_bar[:, h] for h in range(x.shape[1])]
    products = [line * (x[:, h] - centre) for h, line in enumerate(lines)]
    return tree_sum(lines), tree_sum(products)


@unit("batch")
def _column_sums(line: Line, *, batch: int) -> Line:
    """Sums over the columns, repeated in each of them."""
    row = line.shape[1]
    total = tree_sum([line[:, w : w + batch] for w in range(0, row, batch)])
    return jnp.tile(total, (1, row // batch))


def _mean_over_group(values: Line, groups: int) -> Line:
    """Replaces each channel's number by the mean over its group."""
    channels = values.shape[0]
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, -1)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(values.shape)
