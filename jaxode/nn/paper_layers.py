"""Stem and head of the MNIST network of the ODE-Net paper."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from . import kernels
from .field import group_count
from .layers import (
    batch_first,
    CLASSES,
    Conv,
    is_fast,
    Norm,
    prepare_images,
    uniform_pair,
)
from .shapes import Images, Logits, State


class PaperStem(eqx.Module):
    """Images to initial state of 6x6 pixels, by three convolutions.

    3x3 without padding, then twice 4x4 of stride 2 with a pixel of padding; before each
    of the latter a normalisation in `min(32, channels)` groups and a ReLU.

    Attributes:
        conv1: From 28x28 to 26x26 pixels.
        norm1: After `conv1`.
        conv2: From 26x26 to 13x13 pixels.
        norm2: After `conv2`.
        conv3: From 13x13 to 6x6 pixels.
    """

    conv1: Conv
    norm1: Norm
    conv2: Conv
    norm2: Norm
    conv3: Conv

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        keys = jax.random.split(key, 3)
        self.conv1 = Conv(1, channels, key=keys[0])
        self.norm1 = Norm(channels)
        self.conv2 = Conv(channels, channels, key=keys[1], size=4)
        self.norm2 = Norm(channels)
        self.conv3 = Conv(channels, channels, key=keys[2], size=4)

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self.conv1.bias.shape[0]

    def __call__(self, images: Images, *, plain: bool = False) -> State:
        """The state of `(batch, 28, 28, 1)` images, `(batch, channels, 6, 6)`.

        Args:
            images: As the model takes them: uint8 becomes x / 255 here.
            plain: As in `ConvField`.
        """
        x = prepare_images(images, self.conv1.weight.dtype, from_zero=True)
        if is_fast(self.channels, plain):
            return batch_first(self._batch_last(x))
        x = jnp.transpose(x, (0, 3, 1, 2))
        x = kernels.conv_plain(x, self.conv1.weight, self.conv1.bias, "VALID")
        for norm, conv in ((self.norm1, self.conv2), (self.norm2, self.conv3)):
            x = jax.nn.relu(normalise(x, norm))
            x = kernels.conv_plain(x, conv.weight, conv.bias, 1, stride=2)
        return x

    def _batch_last(
        self, images: Float[Array, "batch 28 28 1"]
    ) -> Float[Array, "channel 6 6 batch"]:
        """The same in forms that are fast on a CPU."""
        conv, norm = self.conv1, self.norm1
        arrays = (conv.weight, conv.bias, norm.weight, norm.bias)
        settings: dict[str, int] = dict(groups=group_count(conv.bias.size))
        x = kernels.stem(images, *arrays, **settings)
        x = kernels.strided_conv(x, self.conv2.weight)
        x += self.conv2.bias[:, None, None, None]
        norm, rows = self.norm2, x.reshape(*x.shape[:2], -1)
        settings |= dict(batch=len(images))
        rows = kernels.group_norm(rows, norm.weight, norm.bias, **settings)
        x = kernels.strided_conv(jax.nn.relu(rows).reshape(x.shape), self.conv3.weight)
        return x + self.conv3.bias[:, None, None, None]


class PaperHead(eqx.Module):
    """Final state to logits: normalisation, ReLU, mean over all pixels, linear map.

    Attributes:
        norm: In `min(32, channels)` groups.
        weight: Output first.
        bias: One number for each class.
    """

    norm: Norm
    weight: Float[Array, "class channel"]
    bias: Float[Array, " class"]

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        self.norm = Norm(channels)
        self.weight, self.bias = uniform_pair((CLASSES, channels), channels, key)

    def __call__(self, y: State, *, plain: bool = False) -> Logits:
        """The logits of a state.

        Args:
            y: The state.
            plain: As in `ConvField`.
        """
        del plain
        pooled = jnp.mean(jax.nn.relu(normalise(y, self.norm)), axis=(2, 3))
        out = jnp.dot(pooled, self.weight.T, precision=lax.Precision.HIGHEST)
        return out + self.bias[None, :]


def normalise(y: State, norm: Norm) -> State:
    """Group normalisation in `min(32, channels)` groups."""
    groups = group_count(y.shape[1])
    return kernels.group_norm_plain(y, norm.weight, norm.bias, groups)
