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


Rows = Float[Array, "channel height row"]
Line = Float[Array, "channel row"]
PerChannel = Float[Array, " channel"]


class Moments(NamedTuple):
    """What is known about `x` for each channel and image, one line each.

    Attributes:
        mean: Mean over the group.
        rstd: 1 / sqrt(variance over the group + eps).
        factor: What each pixel is multiplied by.
        constant: What is then added to it.
    """

    mean: Line
    rstd: Line
    factor: Line
    constant: Line


@unit("batch", "groups")
def moments(
    x: Rows, scale: PerChannel, offset: PerChannel, *, batch: int, groups: int
) -> Moments:
    """Mean and variance in one pass over `x`, and the normalisation as a linear map.

    The variance is the mean of squares minus the square of the mean, of `x` minus one of
    its own pixels c. (mean - c)^2 is one of the N terms whose mean is the variance, so
    it is at most N times the variance: no offset of `x`, however large, costs more than
    a factor N of rounding.
    """
    centre = _centre(x, batch=batch, groups=groups)
    sums = _column_sums(_line_sums(x, centre), batch=batch)
    pixels = x.shape[1] * (x.shape[2] // batch)
    return _moments_from_sums(sums, centre, scale, offset, pixels=pixels, groups=groups)


def normalise(x: Rows, known: Moments) -> Rows:
    """Normalises, scales and shifts."""
    return x * known.factor[:, None] + known.constant[:, None]


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
    """Gradients of `normalise(x, moments(x, scale, offset))`: of x, scale and offset."""
    sums = _column_sums(_line_products(out_bar, x, known.mean), batch=batch)
    pixels = x.shape[1] * (x.shape[2] // batch)
    slope, constant, scale_bar, offset_bar = _cotangent_lines(
        sums, known, scale, batch=batch, pixels=pixels, groups=groups
    )
    x_bar = out_bar * known.factor[:, None] + x * slope[:, None] + constant[:, None]
    return x_bar, scale_bar, offset_bar


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
def _line_products(out_bar: Rows, x: Rows, mean: Line) -> Float[Array, "2 channel row"]:
    """Sums of `out_bar`, and of its product with `x - mean`, over the height."""
    lines = [out_bar[:, h] for h in range(x.shape[1])]
    products = [line * (x[:, h] - mean) for h, line in enumerate(lines)]
    return jnp.stack([tree_sum(lines), tree_sum(products)])


@unit("batch")
def _column_sums(
    lines: Float[Array, "2 channel row"], *, batch: int
) -> Float[Array, "2 channel row"]:
    """Sums over the columns, repeated in each of them."""
    row = lines.shape[2]
    total = tree_sum([lines[..., w : w + batch] for w in range(0, row, batch)])
    return jnp.tile(total, (1, 1, row // batch))


@unit("pixels", "groups")
def _moments_from_sums(
    sums: Float[Array, "2 channel row"],
    centre: Line,
    scale: PerChannel,
    offset: PerChannel,
    *,
    pixels: int,
    groups: int,
) -> Moments:
    mean = _mean_over_group(sums[0] / pixels, groups)
    variance = _mean_over_group(sums[1] / pixels, groups) - mean * mean
    rstd = lax.rsqrt(jnp.maximum(variance, 0) + EPS)
    mean = mean + centre
    factor = rstd * scale[:, None]
    return Moments(mean, rstd, factor, offset[:, None] - mean * factor)


@unit("batch", "pixels", "groups")
def _cotangent_lines(
    sums: Float[Array, "2 channel row"],
    known: Moments,
    scale: PerChannel,
    *,
    batch: int,
    pixels: int,
    groups: int,
) -> tuple[Line, Line, PerChannel, PerChannel]:
    """What `x` and one are multiplied by in its cotangent; and the parameters' cotangents.

    With n the normalised input and b the cotangent times scale, the input's cotangent is
    rstd * (b - mean(b) - n * mean(b * n)), means over the group.
    """
    total, along = sums[0], sums[1] * known.rstd
    mean_b = _mean_over_group(total * scale[:, None] / pixels, groups)
    mean_bn = _mean_over_group(along * scale[:, None] / pixels, groups)
    slope = -mean_bn * known.rstd * known.rstd
    constant = -mean_b * known.rstd - slope * known.mean
    scale_bar = jnp.sum(along[:, :batch], axis=1)
    return slope, constant, scale_bar, jnp.sum(total[:, :batch], axis=1)


def _mean_over_group(values: Line, groups: int) -> Line:
    """Replaces each channel's number by the mean over its group."""
    channels = values.shape[0]
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, -1)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(values.shape)
