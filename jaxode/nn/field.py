"""Vector fields f(t, y, args) that are trained."""

from typing import Any, Literal, TypeAlias

import equinox as eqx
from jaxtyping import Array, Key, PyTree

from .._solve.closures import VectorField
from . import kernels
from .layers import batch_first, batch_last, Conv, is_fast, Norm
from .shapes import MergedState, State
from .solve_form import SolveForm


Activation: TypeAlias = Literal["relu", "softplus", "tanh"]


class ConvField(eqx.Module):
    """dy/dt = norm(conv(activation(norm(y)))) on a batch of images, whatever the time.

    ONE group normalisation, with one scale and one offset, is applied twice. It has
    `min(32, channels)` groups, so up to 32 channels it normalises each on its own (and
    removes the convolution's bias again, which then has no gradient).

    Attributes:
        conv: 3x3 convolution, zero padding of one pixel.
        norm: Group normalisation.
        groups: Its number of groups.
        activation: `"relu"` as in the first post; `"softplus"` or `"tanh"` for a field
            that is smooth, and so can be solved backwards with less error.
        plain: Whether to compute with `lax.conv` and JAX's own derivatives, rather than
            with the forms that are fast for few channels. For comparison, and for
            implicit solvers and forward mode, which those have no derivatives for.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, section 3; the
        field of the first post has neither the time as an extra channel nor the second
        convolution of theirs.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = jaxode.nn.ConvField(6, key=jax.random.key(0))
        >>> field(0.0, jnp.ones((4, 6, 13, 13)), None).shape
        (4, 6, 13, 13)
    """

    conv: Conv
    norm: Norm
    groups: int = eqx.field(static=True)
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
            ValueError: where the groups do not divide the channels, or for an unknown
                activation.
        """
        self.groups = group_count(channels)
        kernels.activation_pair(activation)
        self.conv = Conv(channels, channels, key=key)
        self.norm = Norm(channels)
        self.activation = activation  # pyright: ignore[reportAttributeAccessIssue]
        self.plain = plain

    @property
    def is_fast(self) -> bool:
        """Whether it is computed batch-last."""
        return is_fast(self.conv.bias.shape[-1], self.plain)

    def __call__(self, t: Any, y: State, args: PyTree) -> State:
        """The field at state `y`; `t` and `args` are not looked at."""
        if self.is_fast:
            form = self.solve_form(y)
            return form.unpack(form.field(t, form.pack(y), args))
        return kernels.conv_field_plain(
            y,
            self.conv.weight,
            self.conv.bias,
            self.norm.weight,
            self.norm.bias,
            groups=self.groups,
            activation=self.activation,
        )

    def solve_form(self, y0: State) -> SolveForm:
        """How to integrate the field from `y0`: batch-last, where it gains by that.

        A solve packs once at its start and unpacks once at its end, instead of
        transposing in every call of the field.
        """
        if not self.is_fast:
            return SolveForm(self, lambda y: y, lambda y: y)
        return merged_form(MergedField(self, len(y0)), y0)


class MergedField(eqx.Module):
    """A `ConvField` on the state as `MergedState`. The arrays are the field's own.

    Attributes:
        field: The field.
        batch: Number of images in a row.
    """

    field: ConvField
    batch: int = eqx.field(static=True)

    def __call__(self, t: Any, y: MergedState, args: PyTree) -> MergedState:
        """The field at state `y`; `t` and `args` are not looked at."""
        del t, args
        conv, norm = self.field.conv, self.field.norm
        batch_last = y.reshape(*y.shape[:2], -1, self.batch)
        out = kernels.conv_field(
            batch_last,
            conv.weight,
            conv.bias,
            norm.weight,
            norm.bias,
            groups=self.field.groups,
            activation=self.field.activation,
        )
        return out.reshape(y.shape)


def merged_form(field: VectorField, y0: State) -> SolveForm:
    """The form in which a field on `MergedState` is integrated from `y0`."""
    batch, channels, height, width = y0.shape

    def pack(y: State) -> MergedState:
        return batch_last(y).reshape(channels, height, width * batch)

    def unpack(rows: MergedState) -> State:
        return batch_first(rows.reshape(channels, height, width, batch))

    return SolveForm(field, pack, unpack)


def group_count(channels: int) -> int:
    """Groups of the field's normalisation, `min(32, channels)`.

    Raises:
        ValueError: where there are no channels, or the groups do not divide them.
    """
    if channels < 1 or channels % min(32, channels):
        raise ValueError(
            f"channels={channels} cannot be normalised in min(32, channels) groups of "
            "equal size; pass a number from 1 to 32 or a multiple of 32, such as 64."
        )
    return min(32, channels)
