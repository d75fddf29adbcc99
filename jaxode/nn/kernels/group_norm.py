"""Group normalisation of batch-last rows `(channel, height, width*batch)`.

All that a normalisation needs is a few numbers for each channel and image; with them,
it and its gradient are `factor * x + constant` at every pixel. The numbers are kept as
lines, `(channel, width*batch)`, repeated for each column: vectors, like what they meet.
"""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .conv_forms import tree_sum
from .plain import EPS


Merged: TypeAlias = Float[Array, "channel height row"]
Line: TypeAlias = Float[Array, "channel row"]
PerChannel: TypeAlias = Float[Array, " channel"]


class Moments(NamedTuple):
    """What is known about `x` for each channel and image, one line each.

    Attributes:
        mean: Mean over the group.
        rstd: 1 / sqrt(variance over the group + eps).
    """

    mean: Line
    rstd: Line


@noinline("batch", "groups")
def moments(x: Merged, *, batch: int, groups: int) -> Moments:
    """Mean and variance in one pass over `x`.

    The variance is the mean of squares minus the square of the mean, of `x` minus one
    of its own pixels c. (mean - c)^2 is one of the N terms whose mean is the variance,
    so it is at most N times the variance: no offset of `x`, however large, costs more
    than a factor N of rounding.
    """
    centre = _centre(x, batch=batch, groups=groups)
    sums = _column_sums(_line_sums(x, centre), batch=batch)
    pixels = x.shape[1] * (x.shape[2] // batch)
    mean = _mean_over_group(sums[0] / pixels, groups)
    variance = _mean_over_group(sums[1] / pixels, groups) - mean * mean
    return Moments(mean + centre, lax.rsqrt(jnp.maximum(variance, 0) + EPS))


@noinline()
def linear_map(
    known: Moments, scale: PerChannel, offset: PerChannel
) -> Float[Array, "2 channel row"]:
    """Factor and constant of the normalisation.

    A unit, because XLA:CPU does not vectorise what is fused with padding unless it is
    as simple as `factor * x + constant`.
    """
    factor = known.rstd * scale[:, None]
    return jnp.stack([factor, offset[:, None] - known.mean * factor])


def normalise(x: Merged, lines: Float[Array, "2 channel row"]) -> Merged:
    """Normalises, scales and shifts, given `linear_map`."""
    return x * lines[0][:, None] + lines[1][:, None]


@noinline("batch")
def cotangent_sums(
    out_bar: Merged, x: Merged, known: Moments, *, batch: int
) -> Float[Array, "2 channel row"]:
    """Sums of `out_bar`, and of its product with the normalised `x`, over an image."""
    return _column_sums(_line_products(out_bar, x, known), batch=batch)


@noinline("batch", "groups", "height")
def cotangent_map(
    known: Moments,
    sums: Float[Array, "2 channel row"],
    scale: PerChannel,
    *,
    batch: int,
    groups: int,
    height: int,
) -> Float[Array, "3 channel row"]:
    """Factors of `out_bar` and `x` in the cotangent of `x`, and the constant.

    With n the normalised input and b the cotangent times scale, that cotangent is
    rstd * (b - mean(b) - n * mean(b * n)), means over the group.
    """
    pixels = height * (known.mean.shape[1] // batch)
    mean_b = _mean_over_group(sums[0] * (scale / pixels)[:, None], groups)
    mean_bn = _mean_over_group(sums[1] * (scale / pixels)[:, None], groups)
    slope = -mean_bn * known.rstd * known.rstd
    constant = -mean_b * known.rstd - slope * known.mean
    return jnp.stack([known.rstd * scale[:, None], slope, constant])


def input_cotangent(
    out_bar: Merged, x: Merged, lines: Float[Array, "3 channel row"]
) -> Merged:
    """Cotangent of `x` in `normalise`, moments included, given `cotangent_map`."""
    return out_bar * lines[0][:, None] + x * lines[1][:, None] + lines[2][:, None]


def parameter_cotangents(
    *sums: Float[Array, "2 channel row"], batch: int
) -> tuple[PerChannel, PerChannel]:
    """Cotangents of scale and offset, from the sums of every use of them."""
    total = functools.reduce(operator.add, [one[..., :batch] for one in sums])
    offset_bar, scale_bar = jnp.sum(total, axis=2)
    return scale_bar, offset_bar


@noinline("batch", "groups")
def _centre(x: Merged, *, batch: int, groups: int) -> Line:
    """A pixel of each image; in a group, that of its first channel."""
    channels, height, row = x.shape
    middle = (row // batch) // 2 * batch
    pixel = lax.stop_gradient(x[:, height // 2, middle : middle + batch])
    if groups != channels:
        first = pixel.reshape(groups, -1, batch)[:, :1]
        pixel = jnp.repeat(first, channels // groups, axis=1).reshape(channels, batch)
    return jnp.tile(pixel, (1, row // batch))


@jax.custom_jvp
def _line_sums(x: Merged, centre: Line) -> Float[Array, "2 channel row"]:
    """Sums of `x - centre` and of its square over the height."""
    return _line_sums_written_out(x, centre)


@jax.custom_jvp
def _line_products(
    out_bar: Merged, x: Merged, known: Moments
) -> Float[Array, "2 channel row"]:
    """Sums over the height: `out_bar`, and its product with the normalised `x`."""
    return _line_products_written_out(out_bar, x, known)


@noinline()
def _line_sums_written_out(x: Merged, centre: Line) -> Float[Array, "2 channel row"]:
    total = _over_height(lambda h: x[:, h] - centre, x.shape[1])
    squares = _over_height(lambda h: jnp.square(x[:, h] - centre), x.shape[1])
    return jnp.stack([total, squares])


@noinline()
def _line_products_written_out(
    out_bar: Merged, x: Merged, known: Moments
) -> Float[Array, "2 channel row"]:
    total = _over_height(lambda h: out_bar[:, h], x.shape[1])
    products = _over_height(
        lambda h: out_bar[:, h] * (x[:, h] - known.mean), x.shape[1]
    )
    return jnp.stack([total, products * known.rstd])


def _over_height(line: Callable[[int], Line], height: int) -> Line:
    """line(0) + ... + line(height - 1), additions written out unless there are many.

    XLA:CPU sums over an outer axis one number at a time; written out, the same
    additions run over whole vectors.
    """
    lines = [line(h) for h in range(height)]
    return tree_sum(lines) if height <= 64 else jnp.sum(jnp.stack(lines), axis=0)


# For the gradient of a gradient: the transpose of a sum is to repeat a line, but of
# lines that are cut out and added it is to fill up each with zeros and to add these.


@_line_sums.defjvp
def _line_sums_tangent(primals, tangents):
    def plain(x, centre):
        centred = x - centre[:, None]
        return jnp.stack([jnp.sum(centred, 1), jnp.sum(jnp.square(centred), 1)])

    return _line_sums(*primals), jax.jvp(plain, primals, tangents)[1]


@_line_products.defjvp
def _line_products_tangent(primals, tangents):
    def plain(out_bar, x, known):
        products = jnp.sum(out_bar * (x - known.mean[:, None]), axis=1)
        return jnp.stack([jnp.sum(out_bar, axis=1), products * known.rstd])

    return _line_products(*primals), jax.jvp(plain, primals, tangents)[1]


def _column_sums(
    lines: Float[Array, "2 channel row"], *, batch: int
) -> Float[Array, "2 channel row"]:
    """Sums over the columns, repeated in each of them."""
    # Two units: fused into one, the sum would be formed anew for each column.
    width = lines.shape[2] // batch
    return _repeat(_sum_columns(lines, batch=batch), width=width)


@noinline("batch")
def _sum_columns(
    lines: Float[Array, "2 channel row"], *, batch: int
) -> Float[Array, "2 channel batch"]:
    return jnp.sum(lines.reshape(*lines.shape[:2], -1, batch), axis=2)


@noinline("width")
def _repeat(
    values: Float[Array, "2 channel batch"], *, width: int
) -> Float[Array, "2 channel row"]:
    return jnp.tile(values, (1, 1, width))


def _mean_over_group(values: Line, groups: int) -> Line:
    """Replaces each channel's number by the mean over its group."""
    channels = values.shape[0]
    if groups == channels:
        return values
    grouped = values.reshape(groups, channels // groups, -1)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, grouped.shape).reshape(values.shape)
