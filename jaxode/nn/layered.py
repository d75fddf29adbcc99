"""Fields made of several layers, each written once for two layouts of the state."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import kernels
from .field import Activation, group_count, merged_form
from .layers import is_fast, Norm
from .shapes import MergedState, State
from .solve_form import SolveForm


@runtime_checkable
class Layers(Protocol):
    """The layers that fields are made of, for one layout of the state."""

    def norm_conv(self, y: Array, norm: Norm, weight: Array) -> Array:
        """conv3x3(activation(norm(y))), a pixel of zeros around, without a bias."""
        ...

    def norm(self, y: Array, norm: Norm) -> Array:
        """Normalisation in `min(32, channels)` groups."""
        ...

    def add(self, y: Array, image: Array) -> Array:
        """Adds `(channel, height, width)` to every state of a batch.

        Height and width may be 1.
        """
        ...

    def size(self, y: Array) -> tuple[int, int]:
        """Height and width."""
        ...


class PlainLayers(eqx.Module):
    """`Layers` by `lax.conv`, batch first."""

    activation: str = eqx.field(static=True)

    def norm_conv(self, y: State, norm: Norm, weight: Array) -> State:
        activate, _ = kernels.activation_pair(self.activation)
        return kernels.conv_plain(activate(self.norm(y, norm)), weight, None, "SAME")

    def norm(self, y: State, norm: Norm) -> State:
        groups = group_count(y.shape[1])
        return kernels.group_norm_plain(y, norm.weight, norm.bias, groups)

    def add(self, y: State, image: Array) -> State:
        return y + image[None]

    def size(self, y: State) -> tuple[int, int]:
        return y.shape[2], y.shape[3]


class MergedLayers(eqx.Module):
    """`Layers` in forms that are fast on a CPU, on a `MergedState`."""

    activation: str = eqx.field(static=True)
    batch: int = eqx.field(static=True)

    def norm_conv(self, y: MergedState, norm: Norm, weight: Array) -> MergedState:
        settings = dict(batch=self.batch, groups=group_count(y.shape[0]))
        arrays = (y, weight, norm.weight, norm.bias)
        return kernels.norm_conv(*arrays, activation=self.activation, **settings)

    def norm(self, y: MergedState, norm: Norm) -> MergedState:
        settings = dict(batch=self.batch, groups=group_count(y.shape[0]))
        return kernels.group_norm(y, norm.weight, norm.bias, **settings)

    def add(self, y: MergedState, image: Array) -> MergedState:
        return kernels.add_image(y, image, batch=self.batch)

    def size(self, y: MergedState) -> tuple[int, int]:
        return y.shape[1], y.shape[2] // self.batch


class LayeredField(eqx.Module):
    """A field that says by `compute` which layers it is made of.

    Attributes:
        activation: As in `ConvField`.
        plain: As in `ConvField`.
    """

    activation: Activation = eqx.field(static=True)
    plain: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        *,
        plain: bool = False,
        activation: str = "relu",
    ):
        """Checks what all such fields are given.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            plain: See the class.
            activation: See the class.

        Raises:
            ValueError: as `ConvField` does.
        """
        group_count(channels)
        kernels.activation_pair(activation)
        self.activation = activation  # pyright: ignore[reportAttributeAccessIssue]
        self.plain = plain

    def compute(self, t: Any, y: Array, layers: Layers) -> Array:
        """The field, in the layout that `layers` are for."""
        raise NotImplementedError

    def __call__(self, t: Any, y: State, args: PyTree) -> State:
        """The field at time `t` and state `y`; `args` is not looked at."""
        if is_fast(y.shape[1], self.plain):
            form = self.solve_form(y)
            return form.unpack(form.field(t, form.pack(y), args))
        return self.compute(t, y, PlainLayers(self.activation))

    def solve_form(self, y0: State) -> SolveForm:
        """How to integrate the field from `y0`: as in `ConvField`."""
        if not is_fast(y0.shape[1], self.plain):
            return SolveForm(self, lambda y: y, lambda y: y)
        return merged_form(MergedLayeredField(self, len(y0)), y0)


class MergedLayeredField(eqx.Module):
    """A `LayeredField` on the state as `MergedState`. The arrays are the field's own.

    Attributes:
        field: The field.
        batch: Number of images in a row.
    """

    field: LayeredField
    batch: int = eqx.field(static=True)

    def __call__(self, t: Any, y: MergedState, args: PyTree) -> MergedState:
        """The field at time `t` and state `y`; `args` is not looked at."""
        layers = MergedLayers(self.field.activation, self.batch)
        return self.field.compute(t, y, layers)


def conv_at_time(layers: Layers, t: Any, y: Array, norm: Norm, conv: Any) -> Array:
    """conv3x3(activation(norm(y))) with the time at every pixel as its first channel.

    That channel is the same for every image: its part is the time times one image.

    Args:
        layers: For the layout of `y`.
        t: The time.
        y: The state.
        norm: The normalisation.
        conv: A `Conv` of one input channel more than the state has.
    """
    ones = jnp.ones((1, 1, *layers.size(y)), y.dtype)
    image = kernels.conv_plain(ones, conv.weight[:, :1], None, "SAME")[0]
    image = image * jnp.asarray(t, y.dtype) + conv.bias[:, None, None]
    return layers.add(layers.norm_conv(y, norm, conv.weight[:, 1:]), image)
