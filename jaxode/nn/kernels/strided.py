"""4x4 convolution of stride 2 on batch-last images, as matrix products."""

from typing import TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..._steps.noinline import noinline


BatchLast: TypeAlias = Float[Array, "channel height width batch"]


def strided_conv(
    x: BatchLast, weight: Float[Array, "out_channel channel 4 4"]
) -> Float[Array, "out_channel out_height out_width batch"]:
    """Every second pixel of a 4x4 convolution, a pixel of zeros around.

    Four neighbouring pixels are taken as four channels of one pixel, on which the
    kernel is one of 2x2 and stride 1. Its four places are four matrix products, each of
    the whole batch. Made of functions that JAX differentiates into matrix products.

    Args:
        x: Input, at least 2 pixels high and wide.
        weight: Kernels, output channel first.
    """
    _, height, width, batch = x.shape
    rows, columns = height // 2, width // 2
    # Each in a unit of its own: fused with what follows, the padding and the shuffling
    # of pixels would be done anew for each of the four products.
    pixels = _quarters(_padded(x))
    kernels = weight.reshape(weight.shape[0], -1, 2, 2, 2, 2)
    total = jnp.zeros((), x.dtype)
    for dy in range(2):
        for dx in range(2):
            kernel = jnp.transpose(kernels[:, :, dy, :, dx], (2, 3, 1, 0))
            part = _part(pixels, dy=dy, dx=dx, batch=batch)
            total = total + _product(kernel.reshape(-1, weight.shape[0]), part)
    return total.reshape(-1, rows, columns, batch)


@noinline()
def _padded(x: BatchLast) -> Float[Array, "channel even_height even_width batch"]:
    """With a pixel of zeros around; of an odd number no kernel reaches the last."""
    height, width = (size // 2 * 2 + 2 for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, :height, :width]


@noinline()
def _quarters(x: BatchLast) -> Float[Array, "4*channel half_height half_row"]:
    """Every second pixel of every second row, the four images as so many channels."""
    channels, height, width, batch = x.shape
    pairs = x.reshape(channels, height // 2, 2, width // 2, 2 * batch)
    halves = [pairs[..., first : first + batch] for first in (0, batch)]
    images = jnp.stack([half[:, :, dy] for dy in range(2) for half in halves])
    return images.reshape(4 * channels, height // 2, -1)


@noinline("dy", "dx", "batch")
def _part(
    x: Float[Array, "channel height row"], *, dy: int, dx: int, batch: int
) -> Float[Array, "channel pixel"]:
    """What one place of the kernel is multiplied with: all but a row and a column."""
    row = x.shape[2] - batch
    part = x[:, dy : dy + x.shape[1] - 1, dx * batch : dx * batch + row]
    return part.reshape(x.shape[0], -1)


@noinline()
def _product(
    kernel: Float[Array, "channel out_channel"], x: Float[Array, "channel pixel"]
) -> Float[Array, "out_channel pixel"]:
    """A matrix product over rows of both, the faster way round."""
    return lax.dot_general(
        kernel, x, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST
    )
