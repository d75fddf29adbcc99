"""4x4 convolution of stride 2 on batch-last images, as matrix products."""

from typing import TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


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
    channels, height, width, batch = x.shape
    rows, columns = height // 2, width // 2
    # Of an odd number of pixels no kernel reaches the last row of zeros.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    padded = padded[:, : 2 * rows + 2, : 2 * columns + 2]
    split = padded.reshape(channels, rows + 1, 2, columns + 1, 2, batch)
    pixels = jnp.transpose(split, (0, 2, 4, 1, 3, 5)).reshape(
        4 * channels, rows + 1, columns + 1, batch
    )
    kernels = weight.reshape(-1, channels, 2, 2, 2, 2)
    total = jnp.zeros((), x.dtype)
    for dy in range(2):
        for dx in range(2):
            part = pixels[:, dy : dy + rows, dx : dx + columns].reshape(
                4 * channels, -1
            )
            kernel = kernels[:, :, dy, :, dx].reshape(-1, 4 * channels)
            total = total + jnp.dot(kernel, part, precision=lax.Precision.HIGHEST)
    return total.reshape(-1, rows, columns, batch)
