"""4x4 convolution of stride 2 on batch-last images, as matrix products."""

from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .conv_forms import dot


BatchLast: TypeAlias = Float[Array, "channel height width batch"]


def strided_conv(
    x: BatchLast, weight: Float[Array, "out_channel channel 4 4"]
) -> Float[Array, "out_channel out_height out_width batch"]:
    """Every second pixel of a 4x4 convolution, a pixel of zeros around.

    Four neighbouring pixels are taken as four channels of one pixel, on which the
    kernel is one of 2x2 and stride 1. One matrix product says what each such pixel
    gives to the four outputs that it is under, and these are added up. Pixels of the
    rim are under fewer: of (h + 1) (w + 1) products h w are needed, which costs less
    than four of copies that leave them out. Made of functions that JAX differentiates
    into matrix products.

    Args:
        x: Input, at least 2 pixels high and wide.
        weight: Kernels, output channel first.
    """
    _, height, width, batch = x.shape
    rows, columns = height // 2, width // 2
    # Each in a unit of its own: fused with what follows, the padding and the shuffling
    # of pixels would be done anew for each use.
    pixels = _quarters(_padded(x))
    kernels = weight.reshape(weight.shape[0], -1, 2, 2, 2, 2)
    kernel = jnp.transpose(kernels, (2, 4, 0, 3, 5, 1)).reshape(-1, len(pixels))
    given = _product(kernel, pixels.reshape(len(pixels), -1))
    given = given.reshape(2, 2, -1, rows + 1, (columns + 1) * batch)
    return _gathered(given, batch=batch).reshape(-1, rows, columns, batch)


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


@noinline()
def _product(
    kernel: Float[Array, "output channel"], x: Float[Array, "channel pixel"]
) -> Float[Array, "output pixel"]:
    return dot(kernel, x, ((1,), (0,)))


@noinline("batch")
def _gathered(
    given: Float[Array, "2 2 out_channel height row"], *, batch: int
) -> Float[Array, "out_channel out_height out_row"]:
    """What the four pixels under each output give to it, by their place below it."""
    rows, row = given.shape[3] - 1, given.shape[4] - batch
    total = jnp.zeros((), given.dtype)
    for dy in range(2):
        for dx in range(2):
            first = dx * batch
            total = total + given[dy, dx, :, dy : dy + rows, first : first + row]
    return total
