"""A normalisation, an activation and a 3x3 convolution in one, on a batch-last state.

What fields of several convolutions are made of; `conv_field` is the field of one. Rows
are `(channel, height, width*batch)`, as in `conv`.
"""

from typing import TypeAlias

import jax
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .activation import activation_pair
from .checks import check_groups
from .conv import convolve, transposed, weight_cotangent
from .conv_forms import pad_rows
from .dispatch import prefers_tiles
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
from .winograd import convolve_in_tiles, cotangents_in_tiles


# Scale and offset.
Affine: TypeAlias = tuple[PerChannel, PerChannel]


def norm_conv(
    y: Merged,
    weight: Float[Array, "out_channel channel 3 3"],
    scale: PerChannel,
    offset: PerChannel,
    *,
    batch: int,
    groups: int,
    activation: str = "relu",
) -> Float[Array, "out_channel height row"]:
    """conv3x3(activation(GN(y))), a pixel of zeros around, with its own gradient.

    Args:
        y: Input.
        weight: Kernels, output channel first.
        scale: Of the normalisation.
        offset: Of the normalisation.
        batch: Number of images in a row.
        groups: Number of groups.
        activation: Name of the activation.

    Raises:
        ValueError: where the groups do not divide the channels, or for an unknown
            activation.
    """
    check_groups(y.shape[0], groups)
    activation_pair(activation)
    return _norm_conv(y, weight, (scale, offset), batch, groups, activation)


def group_norm(
    y: Merged, scale: PerChannel, offset: PerChannel, *, batch: int, groups: int
) -> Merged:
    """Group normalisation, with its own gradient; arguments are as in `norm_conv`.

    Raises:
        ValueError: where the groups do not divide the channels.
    """
    check_groups(y.shape[0], groups)
    return _group_norm(y, (scale, offset), batch, groups)


@noinline("batch")
def add_image(
    y: Merged, image: Float[Array, "channel height width"], *, batch: int
) -> Merged:
    """Adds one image to each of the batch."""
    pixels = y.reshape(*y.shape[:2], -1, batch)
    return (pixels + image[..., None]).reshape(y.shape)


def _norm_conv_forward(y, weight, affine, batch, groups, activation):
    known = moments(y, batch=batch, groups=groups)
    lines = linear_map(known, *affine)
    if prefers_tiles(weight.shape, _pixels(y, batch)):
        x = activated(y, lines, activation=activation)
        z = convolve_in_tiles(x, weight, batch=batch)
    else:
        x = padded_input(y, lines, batch=batch, activation=activation)
        z = convolve(x, weight, batch=batch)
    return z, (y, weight, affine, known)


def _norm_conv_backward(batch, groups, activation, kept, z_bar):
    y, weight, affine, known = kept
    lines = linear_map(known, *affine)
    # The input is cheaper computed again than kept, as in `conv_field`.
    if prefers_tiles(weight.shape, _pixels(y, batch)):
        x = activated(y, lines, activation=activation)
        x_bar, weight_bar = cotangents_in_tiles(z_bar, x, weight, batch=batch)
    else:
        z_bar = pad_rows(z_bar, batch)
        x = padded_input(y, lines, batch=batch, activation=activation)
        weight_bar = weight_cotangent(z_bar, x, batch=batch)
        x_bar = convolve(z_bar, transposed(weight), batch=batch)
    u_bar = through_activation(x_bar, y, lines, activation=activation)
    y_bar, affine_bar = _through_norm(u_bar, y, known, affine, batch, groups)
    return y_bar, weight_bar, affine_bar


def _norm_forward(y, affine, batch, groups):
    known = moments(y, batch=batch, groups=groups)
    return normalise(y, linear_map(known, *affine)), (y, affine, known)


def _norm_backward(batch, groups, kept, out_bar):
    y, affine, known = kept
    return _through_norm(out_bar, y, known, affine, batch, groups)


def _through_norm(out_bar, y, known, affine, batch, groups) -> tuple[Merged, Affine]:
    """Cotangents of input and parameters of a normalisation."""
    settings = {"batch": batch, "groups": groups, "height": y.shape[1]}
    sums = cotangent_sums(out_bar, y, known, batch=batch)
    lines = cotangent_map(known, sums, affine[0], **settings)
    y_bar = input_cotangent(out_bar, y, lines)
    return y_bar, parameter_cotangents(sums, batch=batch)


@noinline("batch", "activation")
def padded_input(
    y: Merged, lines: Float[Array, "2 channel row"], *, batch: int, activation: str
) -> Float[Array, "channel height_2 row_2"]:
    """What a convolution reads: the normalised state, activated, with zeros around."""
    activate, _ = activation_pair(activation)
    return pad_rows(activate(normalise(y, lines)), batch)


@noinline("activation")
def activated(
    y: Merged, lines: Float[Array, "2 channel row"], *, activation: str
) -> Merged:
    """The normalised state, activated."""
    activate, _ = activation_pair(activation)
    return activate(normalise(y, lines))


@noinline("activation")
def through_activation(
    x_bar: Merged, y: Merged, lines: Float[Array, "2 channel row"], *, activation: str
) -> Merged:
    """Cotangent of the normalised state, from that of the activated one."""
    _, slope = activation_pair(activation)
    return x_bar * slope(normalise(y, lines))


def _pixels(y: Merged, batch: int) -> int:
    return y.shape[1] * y.shape[2] // batch


def _value(y, weight, affine, batch, groups, activation):
    return _norm_conv_forward(y, weight, affine, batch, groups, activation)[0]


def _norm_value(y, affine, batch, groups):
    return _norm_forward(y, affine, batch, groups)[0]


_norm_conv = jax.custom_vjp(_value, nondiff_argnums=(3, 4, 5))
_norm_conv.defvjp(_norm_conv_forward, _norm_conv_backward)
_group_norm = jax.custom_vjp(_norm_value, nondiff_argnums=(2, 3))
_group_norm.defvjp(_norm_forward, _norm_backward)
