"""The vector field GN(conv3x3(activation(GN(y))) + bias) on a batch-last state."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._steps.lanes import varying_like
from ..._steps.noinline import noinline
from .activation import activation_pair
from .checks import check_groups
from .conv import convolve, transposed, weight_cotangent
from .conv_forms import pad_rows, PaddedMerged
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
from .norm_conv import padded_input, through_activation


# Weight, bias, scale, offset.
Params: TypeAlias = tuple[
    Float[Array, "channel channel 3 3"], PerChannel, PerChannel, PerChannel
]


def conv_field(
    y: Float[Array, "channel height width batch"],
    weight: Float[Array, "channel channel 3 3"],
    bias: PerChannel,
    scale: PerChannel,
    offset: PerChannel,
    *,
    groups: int,
    activation: str = "relu",
) -> Float[Array, "channel height width batch"]:
    """The field of `conv_field_plain` on a batch-last state, with its own gradient.

    Merge width and batch into one axis outside too, wherever a state is added up: an
    innermost axis of 16 or 32 is slow there as here.

    Args:
        y: State.
        weight: As in `conv_field_plain`, and so are the rest.
        bias: Added after the convolution.
        scale: Of the normalisation.
        offset: Of the normalisation.
        groups: Number of groups.
        activation: Name of the activation.

    Returns:
        dy/dt, shaped as `y`.

    Raises:
        ValueError: where the groups do not divide the channels, or for an unknown
            activation.
    """
    check_groups(y.shape[0], groups)
    activation_pair(activation)
    rows = y.reshape(*y.shape[:2], -1)
    given = rows, (weight, bias, scale, offset)
    # In `jax.shard_map` an array and its cotangent are of one type.
    rows, params = varying_like(given, given)
    return _field(rows, params, y.shape[3], groups, activation).reshape(y.shape)


def _value(
    y: Merged, params: Params, batch: int, groups: int, activation: str
) -> Merged:
    return _forward(y, params, batch, groups, activation)[0]


def _forward(y: Merged, params: Params, batch: int, groups: int, activation: str):
    out, kept = _outputs(y, *params, batch=batch, groups=groups, activation=activation)
    return out, (y, params, *kept)


@noinline("batch", "groups", "activation")
def _outputs(y, weight, bias, scale, offset, *, batch, groups, activation):
    """The field, and what its gradient needs besides the arguments."""
    first = moments(y, batch=batch, groups=groups)
    lines = linear_map(first, scale, offset)
    x = padded_input(y, lines, batch=batch, activation=activation)
    z = convolve(x, weight, batch=batch)
    if groups != y.shape[0]:
        # With one channel in each group the second mean takes out any bias exactly.
        z = z + bias[:, None, None]
    second = moments(z, batch=batch, groups=groups)
    return normalise(z, linear_map(second, scale, offset)), (z, first, second)


def _backward(batch: int, groups: int, activation: str, kept, out_bar: Merged):
    y, params, z, first, second = kept
    return _cotangents(
        out_bar,
        y,
        z,
        first,
        second,
        *params,
        batch=batch,
        groups=groups,
        activation=activation,
    )


@noinline("batch", "groups", "activation")
def _cotangents(
    out_bar,
    y,
    z,
    first,
    second,
    weight,
    bias,
    scale,
    offset,
    *,
    batch,
    groups,
    activation,
):
    """Cotangents of the state and of the parameters.

    Written in functions that JAX can differentiate again.
    """
    settings = {"batch": batch, "groups": groups, "height": y.shape[1]}
    sums_2 = cotangent_sums(out_bar, z, second, batch=batch)
    lines = cotangent_map(second, sums_2, scale, **settings)
    z_bar = _padded_cotangent(out_bar, z, lines, batch=batch)
    if groups == y.shape[0]:
        bias_bar = jnp.zeros_like(bias)  # exact: see `_outputs`
    else:
        bias_bar = jnp.sum(z_bar, axis=(1, 2))
    lines = linear_map(first, scale, offset)
    # Cheaper than to keep it, or to read it back where a solve keeps every step.
    x = padded_input(y, lines, batch=batch, activation=activation)
    weight_bar = weight_cotangent(z_bar, x, batch=batch)
    x_bar = convolve(z_bar, transposed(weight), batch=batch)
    u_bar = through_activation(x_bar, y, lines, activation=activation)
    sums_1 = cotangent_sums(u_bar, y, first, batch=batch)
    y_bar = input_cotangent(u_bar, y, cotangent_map(first, sums_1, scale, **settings))
    scale_bar, offset_bar = parameter_cotangents(sums_1, sums_2, batch=batch)
    return y_bar, (weight_bar, bias_bar, scale_bar, offset_bar)


@noinline("batch")
def _padded_cotangent(
    out_bar: Merged, z: Merged, lines: Float[Array, "3 channel row"], *, batch: int
) -> PaddedMerged:
    """What the transposed convolution reads."""
    return pad_rows(input_cotangent(out_bar, z, lines), batch)


_field = jax.custom_vjp(_value, nondiff_argnums=(2, 3, 4))
_field.defvjp(_forward, _backward)
