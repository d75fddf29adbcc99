"""What the ODE-Net paper's MNIST networks have between stem and head."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from . import kernels
from .field import Activation, group_count
from .layers import Conv, Norm
from .paper_layers import normalise
from .shapes import State


class PaperField(eqx.Module):
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
        activation: As in `ConvField`.
        plain: As in `ConvField`.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, section 3, as
        released with torchdiffeq (examples/odenet_mnist.py).
    """

    norm1: Norm
    conv1: Conv
    norm2: Norm
    conv2: Conv
    norm3: Norm
    activation: Activation = eqx.field(static=True)
    plain: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        key: Key[Array, ""],
        plain: bool = False,
        activation: str = "relu",
    ):
        """Draws the weights from PyTorch's default distributions.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            key: Randomness of the weights.
            plain: See the class.
            activation: See the class.

        Raises:
            ValueError: as `ConvField` does.
        """
        group_count(channels)
        kernels.activation_pair(activation)
        keys = jax.random.split(key)
        self.norm1, self.norm2, self.norm3 = (Norm(channels) for _ in range(3))
        self.conv1, self.conv2 = (Conv(channels + 1, channels, key=k) for k in keys)
        self.activation = activation  # pyright: ignore[reportAttributeAccessIssue]
        self.plain = plain

    def __call__(self, t: Any, y: State, args: PyTree) -> State:
        """The field at time `t` and state `y`; `args` is not looked at."""
        del args
        activate, _ = kernels.activation_pair(self.activation)
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            y = conv_at_time(conv, t, activate(normalise(y, norm)))
        return normalise(y, self.norm3)


class ResidualField(eqx.Module):
    """conv(act(norm(conv(act(norm(y)))))): what a block of the paper's ResNet adds.

    The convolutions are 3x3 with a pixel of zeros around, and have no bias.

    Attributes:
        norm1: Of the state.
        conv1: The first.
        norm2: Between the convolutions.
        conv2: The second.
        activation: As in `ConvField`.
        plain: As in `ConvField`.
    """

    norm1: Norm
    conv1: Conv
    norm2: Norm
    conv2: Conv
    activation: Activation = eqx.field(static=True)
    plain: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        key: Key[Array, ""],
        plain: bool = False,
        activation: str = "relu",
    ):
        """Draws the weights; arguments and errors are those of `PaperField`."""
        group_count(channels)
        kernels.activation_pair(activation)
        keys = jax.random.split(key)
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.conv1, self.conv2 = (
            Conv(channels, channels, key=k, bias=False) for k in keys
        )
        self.activation = activation  # pyright: ignore[reportAttributeAccessIssue]
        self.plain = plain

    def __call__(self, t: Any, y: State, args: PyTree) -> State:
        """What is added to state `y`; `t` and `args` are not looked at."""
        del t, args
        activate, _ = kernels.activation_pair(self.activation)
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            x = activate(normalise(y, norm))
            y = kernels.conv_plain(x, conv.weight, conv.bias, "SAME")
        return y


def conv_at_time(conv: Conv, t: Any, x: State) -> State:
    """Convolution of `x` with, as its first channel, the time at every pixel.

    That channel is the same for every image: its part is the time times one image.
    """
    time_part = conv_of_ones(conv, x) * jnp.asarray(t, x.dtype)
    return kernels.conv_plain(x, conv.weight[:, 1:], conv.bias, "SAME") + time_part


def conv_of_ones(conv: Conv, x: State) -> State:
    """What a first channel of ones comes to: `(1, channel, height, width)`."""
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    return kernels.conv_plain(ones, conv.weight[:, :1], None, "SAME")
