"""3x3 convolution on batch-last images, differentiable again and again.

Which form runs is decided here. Rows of pixels are merged with the batch, as in
`conv_forms`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .conv_forms import (
    convolve_general,
    convolve_written_out,
    Kernels,
    Merged,
    PaddedBar,
    PaddedMerged,
    product_of_nine,
    product_of_three,
    shifted_product,
    weight_cotangent_general,
    weight_cotangent_product,
)
from .dispatch import by_platform


def transposed(weight: Kernels) -> Float[Array, "in_channel channel 3 3"]:
    """The kernels whose convolution is the adjoint map of the given ones."""
    return jnp.flip(jnp.swapaxes(weight, 0, 1), (2, 3))


def convolve(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    """Cross-correlates with 3x3 kernels (what networks call a convolution).

    Args:
        padded: Input, with the pixels around it that the kernels reach.
        weight: Kernels, output channel first.
        batch: Number of images in a row.

    Returns:
        Two pixels less in height and width than `padded`.
    """
    return _convolve(padded, weight, batch)


@noinline("batch")
def _convolve_apart(padded: PaddedMerged, weight: Kernels, *, batch: int) -> Merged:
    form = by_platform(convolve_written_out, convolve_general, max(weight.shape[:2]))
    return form(padded, weight, batch=batch)


def weight_cotangent(z_bar: PaddedBar, padded: PaddedMerged, *, batch: int) -> Kernels:
    """Gradient of `convolve` with respect to its kernels.

    Args:
        z_bar: Cotangent of the convolution's output, padded with a pixel of zeros.
        padded: The convolution's input.
        batch: Number of images in a row.

    Returns:
        The kernels' cotangent.
    """
    return _weight_cotangent(z_bar, padded, batch)


@noinline("batch")
def _weight_cotangent_apart(
    z_bar: PaddedBar, padded: PaddedMerged, *, batch: int
) -> Kernels:
    width = max(z_bar.shape[0], padded.shape[0])
    form = by_platform(weight_cotangent_product, weight_cotangent_general, width)
    return form(z_bar, padded, batch=batch)


def _bilinear(
    form: Callable[..., Array],
    by_first: Callable[..., Array],
    by_second: Callable[..., Array],
) -> Callable[[Array, Array, int], Array]:
    """`form` of two arrays, whose transposes in each are those of two others.

    For the gradient of a gradient JAX differentiates what is called here. The
    transposes of sums written out, or of bands, are many arrays filled up with zeros
    and added, at up to a hundred times the cost. Those of products over a few copies
    are products again.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(2,))
    def call(a: Array, b: Array, batch: int) -> Array:
        return form(a, b, batch=batch)

    @partial(call.defjvp, symbolic_zeros=True)
    def tangent(batch, primals, tangents):
        (a, b), (a_dot, b_dot) = primals, tangents
        terms = [(by_first, a_dot, b, a_dot), (by_second, a, b_dot, b_dot)]
        parts = [
            product(x, y, batch=batch)
            for product, x, y, moved in terms
            if not isinstance(moved, SymbolicZero)
        ]
        return call(a, b, batch), sum(parts[1:], parts[0])

    return call


_shifted = noinline("batch")(shifted_product)
_convolve = _bilinear(
    _convolve_apart,
    noinline("batch")(product_of_nine),
    noinline("batch")(product_of_three),
)
_weight_cotangent = _bilinear(_weight_cotangent_apart, _shifted, _shifted)
