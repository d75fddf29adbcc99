"""The layers before and after the ODE block, and the weights they are made of."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from . import kernels
from .shapes import Images, Logits, State


IMAGE_SIZE = 28
CLASSES = 10
# The stem's convolution takes two rows and columns, the mean pool every second one.
_POOLED_SIZE = (IMAGE_SIZE - 2) // 2


class Conv(eqx.Module):
    """Weights of a convolution, in PyTorch's layout and initialisation.

    Attributes:
        weight: Kernels, output channel first.
        bias: Added to each output channel.
    """

    weight: Float[Array, "channel in_channel size size"]
    bias: Float[Array, " channel"]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        key: Key[Array, ""],
        size: int = 3,
    ):
        """Draws both from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        self.weight, self.bias = uniform_pair(
            (channels, in_channels, size, size), size**2 * in_channels, key
        )


class ConvWithoutBias(eqx.Module):
    """Weights of a 3x3 convolution to which nothing is added.

    Attributes:
        weight: As in `Conv`.
    """

    weight: Float[Array, "channel in_channel 3 3"]

    def __init__(self, in_channels: int, channels: int, *, key: Key[Array, ""]):
        self.weight = Conv(in_channels, channels, key=key).weight


class Norm(eqx.Module):
    """Scale and offset of a group normalisation; ones and zeros at first.

    Attributes:
        weight: What each normalised channel is multiplied by.
        bias: What is then added to it.
    """

    weight: Float[Array, " channel"]
    bias: Float[Array, " channel"]

    def __init__(self, channels: int):
        self.weight = jnp.ones((channels,))
        self.bias = jnp.zeros((channels,))


class Stem(eqx.Module):
    """Images to initial state: 3x3 convolution without padding, normalisation, ReLU.

    Attributes:
        conv: From 1 to `channels` channels.
        norm: Normalises each channel of each image on its own.
    """

    conv: Conv
    norm: Norm

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        self.conv = Conv(1, channels, key=key)
        self.norm = Norm(channels)

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self.conv.bias.shape[0]

    def __call__(self, images: Images, *, plain: bool = False) -> State:
        """The state of `(batch, 28, 28, 1)` images, `(batch, channels, 26, 26)`.

        Args:
            images: As the model takes them.
            plain: As in `ConvField`.
        """
        x = prepare_images(images, self.conv.weight.dtype)
        channels = self.channels
        arrays = (self.conv.weight, self.conv.bias, self.norm.weight, self.norm.bias)
        if is_fast(channels, plain):
            return batch_first(kernels.stem(x, *arrays, groups=channels))
        return kernels.stem_plain(x, *arrays, groups=channels)


class Head(eqx.Module):
    """Final state to logits: mean over 2x2 pixels, then one linear map.

    Attributes:
        weight: Its columns run over channel, row and column of the pooled state.
        bias: One number for each class.
    """

    weight: Float[Array, "class feature"]
    bias: Float[Array, " class"]

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        features = channels * _POOLED_SIZE**2
        self.weight, self.bias = uniform_pair((CLASSES, features), features, key)

    def __call__(self, y: State, *, plain: bool = False) -> Logits:
        """The logits of a state.

        Args:
            y: The state.
            plain: As in `ConvField`.
        """
        if is_fast(y.shape[1], plain):
            return kernels.pool_linear(batch_last(y), self.weight, self.bias)
        return kernels.pool_linear_plain(y, self.weight, self.bias)


def prepare_images(
    images: Images, dtype: Any = jnp.float32, *, from_zero: bool = False
) -> Float[Array, "batch 28 28 1"]:
    """Images as a stem takes them: uint8 becomes x / 127.5 - 1, floats stay.

    Args:
        images: As the model takes them.
        dtype: Precision of the weights.
        from_zero: Whether uint8 becomes x / 255 instead.

    Raises:
        TypeError: for images that are neither uint8 nor floating.
        ValueError: for a shape other than `(batch, 28, 28, 1)`, and an empty batch.
    """
    expected = (IMAGE_SIZE, IMAGE_SIZE, 1)
    if images.shape[1:] != expected:
        hint = ""
        if images.shape == expected[:2]:
            hint = "; for one image pass images[None, :, :, None]"
        elif images.shape[1:] == expected[:2]:
            hint = "; pass images[..., None]"
        elif images.shape == expected:
            hint = "; for one image pass images[None]"
        raise ValueError(
            f"images have shape {images.shape}; the model takes "
            f"(batch, {IMAGE_SIZE}, {IMAGE_SIZE}, 1){hint}."
        )
    if images.shape[0] == 0:
        raise ValueError(
            f"images have shape {images.shape}, a batch of none; pass at least one."
        )
    if images.dtype == jnp.uint8:
        grey = jnp.asarray(images).astype(dtype)
        return grey / 255 if from_zero else grey / 127.5 - 1
    if not jnp.issubdtype(images.dtype, jnp.floating):
        least = 0 if from_zero else -1
        raise TypeError(
            f"images have dtype {images.dtype}; pass grey levels as uint8, such as "
            f"images.astype('uint8'), or floats normalised to [{least}, 1]."
        )
    return jnp.asarray(images).astype(dtype)


def uniform_pair(
    shape: tuple[int, ...], fan_in: int, key: Key[Array, ""]
) -> tuple[Float[Array, "*shape"], Float[Array, " channel"]]:
    """Weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default."""
    bound = fan_in**-0.5
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.uniform(weight_key, shape, minval=-bound, maxval=bound)
    bias = jax.random.uniform(bias_key, shape[:1], minval=-bound, maxval=bound)
    return weight, bias


def is_fast(channels: int, plain: bool) -> bool:
    """Whether a state of so many channels goes through the forms that are batch-last.

    In a jitted model the transpositions at the seams meet in pairs, and XLA drops them.
    """
    return not plain and kernels.prefers_batch_last(channels)


def batch_last(y: State) -> Float[Array, "channel height width batch"]:
    """Moves the batch behind the pixels."""
    return jnp.transpose(y, (1, 2, 3, 0))


def batch_first(y: Float[Array, "channel height width batch"]) -> State:
    """Undoes `batch_last`."""
    return jnp.transpose(y, (3, 0, 1, 2))
