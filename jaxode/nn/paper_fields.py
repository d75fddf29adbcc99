"""Fields with the time in their convolutions, and what the paper's ResNet adds."""

from typing import Any

import jax
from jaxtyping import Array, Key

from .layered import conv_at_time, LayeredField, Layers
from .layers import Conv, ConvWithoutBias, Norm


class TimeConvField(LayeredField):
    """A `ConvField` whose convolution has the time as one channel more, the first.

    Attributes:
        conv: From `channels + 1` to `channels`.
        norm: Used twice, as in `ConvField`.

    Reference:
        The second post's field for images has the time in its convolutions.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = jaxode.nn.TimeConvField(6, key=jax.random.key(0))
        >>> field(0.5, jnp.ones((4, 6, 13, 13)), None).shape
        (4, 6, 13, 13)
    """

    conv: Conv
    norm: Norm

    def __init__(self, channels: int, *, key: Key[Array, ""], **settings: Any):
        """Draws the weights from PyTorch's default distributions.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            key: Randomness of the weights.
            **settings: `activation` and `plain`, as in `ConvField`.

        Raises:
            ValueError: as `ConvField` does.
        """
        super().__init__(channels, **settings)
        self.conv = Conv(channels + 1, channels, key=key)
        self.norm = Norm(channels)

    def compute(self, t: Any, y: Array, layers: Layers) -> Array:
        z = conv_at_time(layers, t, y, self.norm, self.conv)
        return layers.norm(z, self.norm)


class PaperField(LayeredField):
    """dy/dt = norm(conv(act(norm(conv(act(norm(y)))))), with the time in each conv.

    Both convolutions are 3x3 with a pixel of zeros around, and have a channel more than
    the state, the first, which is the time at every pixel. The three normalisations are
    different ones, in `min(32, channels)` groups.

    Attributes:
        norm1: Of the state.
        conv1: From `channels + 1` to `channels`.
        norm2: Between the convolutions.
        conv2: From `channels + 1` to `channels`.
        norm3: Of dy/dt.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, section 3, as
        released with torchdiffeq (examples/odenet_mnist.py).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = jaxode.nn.PaperField(8, key=jax.random.key(0))
        >>> field(0.5, jnp.ones((2, 8, 6, 6)), None).shape
        (2, 8, 6, 6)
    """

    norm1: Norm
    conv1: Conv
    norm2: Norm
    conv2: Conv
    norm3: Norm

    def __init__(self, channels: int, *, key: Key[Array, ""], **settings: Any):
        """Draws the weights from PyTorch's default distributions.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            key: Randomness of the weights.
            **settings: `activation` and `plain`, as in `ConvField`.

        Raises:
            ValueError: as `ConvField` does.
        """
        super().__init__(channels, **settings)
        keys = jax.random.split(key)
        self.norm1, self.norm2, self.norm3 = (Norm(channels) for _ in range(3))
        self.conv1, self.conv2 = (Conv(channels + 1, channels, key=k) for k in keys)

    def compute(self, t: Any, y: Array, layers: Layers) -> Array:
        y = conv_at_time(layers, t, y, self.norm1, self.conv1)
        y = conv_at_time(layers, t, y, self.norm2, self.conv2)
        return layers.norm(y, self.norm3)


class ResidualField(LayeredField):
    """conv(act(norm(conv(act(norm(y)))))): what a block of the paper's ResNet adds.

    The convolutions are 3x3 with a pixel of zeros around, and have no bias.

    Attributes:
        norm1: Of the state.
        conv1: The first.
        norm2: Between the convolutions.
        conv2: The second.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = jaxode.nn.ResidualField(8, key=jax.random.key(0))
        >>> field(0.0, jnp.ones((2, 8, 6, 6)), None).shape
        (2, 8, 6, 6)
    """

    norm1: Norm
    conv1: ConvWithoutBias
    norm2: Norm
    conv2: ConvWithoutBias

    def __init__(self, channels: int, *, key: Key[Array, ""], **settings: Any):
        """Draws the weights from PyTorch's default distributions.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            key: Randomness of the weights.
            **settings: `activation` and `plain`, as in `ConvField`.

        Raises:
            ValueError: as `ConvField` does.
        """
        super().__init__(channels, **settings)
        keys = jax.random.split(key)
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.conv1, self.conv2 = (
            ConvWithoutBias(channels, channels, key=k) for k in keys
        )

    def compute(self, t: Any, y: Array, layers: Layers) -> Array:
        del t
        y = layers.norm_conv(y, self.norm1, self.conv1.weight)
        return layers.norm_conv(y, self.norm2, self.conv2.weight)
