"""Stem and head of the classifier on a batch-last state."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._steps.lanes import varying_like
from ..._steps.noinline import noinline
from .checks import check_groups
from .conv import convolve, transposed
from .conv_forms import dot, nine_shifts, pad_rows
from .group_norm import (
    cotangent_map,
    cotangent_sums,
    input_cotangent,
    linear_map,
    Merged,
    moments,
    normalise,
    parameter_cotangents,
    PerChannel,
)


MergedImages: TypeAlias = Float[Array, "1 in_height in_row"]
# Weight, bias, scale, offset.
Params: TypeAlias = tuple[
    Float[Array, "channel 1 3 3"], PerChannel, PerChannel, PerChannel
]


def stem(
    images: Float[Array, "batch 28 28 1"],
    weight: Float[Array, "channel 1 3 3"],
    bias: PerChannel,
    scale: PerChannel,
    offset: PerChannel,
    *,
    groups: int,
) -> Float[Array, "channel 26 26 batch"]:
    """The stem of `stem_plain`, batch-last, with its own gradient.

    Args:
        images: As in `stem_plain`, and so are the rest.
        weight: Kernels.
        bias: Added after the convolution.
        scale: Of the normalisation.
        offset: Of the normalisation.
        groups: Number of groups.

    Returns:
        The state where the ODE starts.

    Raises:
        ValueError: where the groups do not divide the channels.
    """
    check_groups(weight.shape[0], groups)
    batch, height, width, _ = images.shape
    rows = jnp.transpose(images, (3, 1, 2, 0)).reshape(1, height, -1)
    given = rows, (weight, bias, scale, offset)
    # In `jax.shard_map` an array and its cotangent are of one type.
    out = _stem(*varying_like(given, given), batch, groups)
    return out.reshape(-1, height - 2, width - 2, batch)


def _value(rows: MergedImages, params: Params, batch: int, groups: int) -> Merged:
    return _forward(rows, params, batch, groups)[0]


def _forward(rows: MergedImages, params: Params, batch: int, groups: int):
    weight, bias, scale, offset = params
    z = convolve(rows, weight, batch=batch)
    if groups != weight.shape[0]:
        z = z + bias[:, None, None]  # else the mean takes it out again
    known = moments(z, batch=batch, groups=groups)
    out = jax.nn.relu(normalise(z, linear_map(known, scale, offset)))
    return out, (rows, params, z, known)


def _backward(batch: int, groups: int, kept, out_bar: Merged):
    rows, (weight, bias, scale, offset), z, known = kept
    lines = linear_map(known, scale, offset)
    u_bar = jnp.where(normalise(z, lines) > 0, out_bar, 0)
    sums = cotangent_sums(u_bar, z, known, batch=batch)
    settings = {"batch": batch, "groups": groups, "height": z.shape[1]}
    lines = cotangent_map(known, sums, scale, **settings)
    z_bar = input_cotangent(u_bar, z, lines)
    one_each = groups == weight.shape[0]
    bias_bar = jnp.zeros_like(bias) if one_each else jnp.sum(z_bar, axis=(1, 2))
    weight_bar = _weight_cotangent(z_bar, rows, batch=batch)
    # Outside any unit, so that XLA drops it where nobody asks for it.
    z_bar = pad_rows(pad_rows(z_bar, batch), batch)
    rows_bar = convolve(z_bar, transposed(weight), batch=batch)
    return rows_bar, (weight_bar, bias_bar, *parameter_cotangents(sums, batch=batch))


@noinline("batch")
def _weight_cotangent(
    z_bar: Merged, rows: MergedImages, *, batch: int
) -> Float[Array, "channel 1 3 3"]:
    """As `conv.weight_cotangent`, which copies both sides three times.

    The image has one channel, so that nine copies of it are fewer, and the cotangent is
    read once.
    """
    shifts = nine_shifts(rows, batch).reshape(9, -1)
    product = dot(z_bar.reshape(len(z_bar), -1), shifts, ((1,), (1,)))
    return product.reshape(-1, 1, 3, 3)


_stem = jax.custom_vjp(_value, nondiff_argnums=(2, 3))
_stem.defvjp(_forward, _backward)


def pool_linear(
    y: Float[Array, "channel height width batch"],
    weight: Float[Array, "out feature"],
    bias: Float[Array, " out"],
) -> Float[Array, "batch out"]:
    """The head of `pool_linear_plain` on a batch-last state, as one matrix product.

    The weight of a block of 2x2 pixels goes to its pixels, a quarter to each: weights
    are few, and pooling a batch-last state would walk through it in short steps.

    Args:
        y: State; a last odd row or column is left out.
        weight: Output first, features in the order (channel, row, column).
        bias: Added after the map.

    Returns:
        The map's output for each image.
    """
    channels, height, width, batch = y.shape
    blocks = weight.reshape(-1, channels, height // 2, width // 2)
    spread = jnp.repeat(jnp.repeat(blocks / 4, 2, axis=2), 2, axis=3)
    odd = ((0, 0), (0, 0), (0, height % 2), (0, width % 2))
    by_pixel = jnp.pad(spread, odd).reshape(weight.shape[0], -1)
    out = jnp.dot(by_pixel, y.reshape(-1, batch), precision=lax.Precision.HIGHEST)
    return out.T + bias[None, :]
