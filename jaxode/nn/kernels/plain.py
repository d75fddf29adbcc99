"""The plainest forms, in PyTorch's layout, differentiated by JAX: the tests' oracles.

They also run for very wide fields, and on accelerators, where `lax.conv` is fast.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .activation import activation_pair
from .checks import check_groups


EPS = 1e-5

Images: TypeAlias = Float[Array, "batch 28 28 1"]
State: TypeAlias = Float[Array, "batch channel height width"]
PerChannel: TypeAlias = Float[Array, " channel"]


def group_norm_plain(
    x: State, scale: PerChannel, offset: PerChannel, groups: int
) -> State:
    """Group normalisation with the variance taken about the mean (two passes).

    Reference:
        Wu & He 2018, arXiv:1803.08494, eqs. (1)-(3).
    """
    grouped = x.reshape(x.shape[0], groups, -1)
    mean = jnp.mean(grouped, axis=2, keepdims=True)
    variance = jnp.mean(jnp.square(grouped - mean), axis=2, keepdims=True)
    normal = ((grouped - mean) * lax.rsqrt(variance + EPS)).reshape(x.shape)
    return normal * scale[None, :, None, None] + offset[None, :, None, None]


def conv_plain(
    x: Float[Array, "batch in_channel height width"],
    weight: Float[Array, "channel in_channel rows columns"],
    bias: PerChannel | None,
    padding: str | int,
    stride: int = 1,
) -> Float[Array, "batch channel out_height out_width"]:
    """Convolution, at full precision on every platform.

    Rounding to 10 bits, the default of some, would drown a step's error estimate.
    """
    sides = padding if isinstance(padding, str) else ((padding, padding),) * 2
    out = lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        sides,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        precision=lax.Precision.HIGHEST,
    )
    return out if bias is None else out + bias[None, :, None, None]


def conv_field_plain(
    y: State,
    weight: Float[Array, "channel channel 3 3"],
    bias: PerChannel,
    scale: PerChannel,
    offset: PerChannel,
    *,
    groups: int,
    activation: str = "relu",
) -> State:
    """The field GN(conv3x3(activation(GN(y))) + bias), one GN used twice.

    Args:
        y: State.
        weight: Kernels, output channel first; zero padding of one pixel.
        bias: Added after the convolution.
        scale: Of the normalisation.
        offset: Of the normalisation.
        groups: Number of groups.
        activation: One of `"relu"`, `"softplus"`, `"tanh"`.

    Returns:
        dy/dt, shaped as `y`.

    Raises:
        ValueError: where the groups do not divide the channels, or for an unknown
            activation.
    """
    check_groups(y.shape[1], groups)
    activate, _ = activation_pair(activation)
    x = activate(group_norm_plain(y, scale, offset, groups))
    z = conv_plain(x, weight, bias, "SAME")
    return group_norm_plain(z, scale, offset, groups)


def stem_plain(
    images: Images,
    weight: Float[Array, "channel 1 3 3"],
    bias: PerChannel,
    scale: PerChannel,
    offset: PerChannel,
    *,
    groups: int,
) -> Float[Array, "batch channel 26 26"]:
    """relu(GN(conv3x3(images) + bias)), no padding.

    Args:
        images: Grey levels, already normalised.
        weight: Kernels.
        bias: Added after the convolution.
        scale: Of the normalisation.
        offset: Of the normalisation.
        groups: Number of groups.

    Returns:
        The state where the ODE starts, two pixels smaller than the images.

    Raises:
        ValueError: where the groups do not divide the channels.
    """
    check_groups(weight.shape[0], groups)
    x = jnp.transpose(images, (0, 3, 1, 2))
    z = conv_plain(x, weight, bias, "VALID")
    return jax.nn.relu(group_norm_plain(z, scale, offset, groups))


def pool_linear_plain(
    y: State,
    weight: Float[Array, "out feature"],
    bias: Float[Array, " out"],
) -> Float[Array, "batch out"]:
    """Mean over 2x2 blocks, then a linear map of (channel, row, column) in that order.

    Args:
        y: State; a last odd row or column is left out.
        weight: Output first, as in PyTorch.
        bias: Added after the map.

    Returns:
        The map's output for each image.
    """
    batch, channels, height, width = y.shape
    even = y[:, :, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(batch, channels, height // 2, 2, width // 2, 2)
    flat = jnp.mean(blocks, axis=(3, 5)).reshape(batch, -1)
    return jnp.dot(flat, weight.T, precision=lax.Precision.HIGHEST) + bias[None, :]
