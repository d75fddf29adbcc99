"""3x3 convolution of few channels on a CPU, written as shifted multiply-adds.

Images lie batch-last, and a row of pixels and its batch form ONE axis: `(channel, height,
width*batch)`. XLA:CPU turns each fusion into loops over the output's axes, and LLVM unrolls
a minor axis of 16 or 32 completely before it looks for vectors, so a batch of 16 as an axis
of its own runs in scalar code, several times slower. A row is long, and a shift by one
pixel is a contiguous slice of it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def tree_sum(terms: Sequence[Array]) -> Array:
    """Adds arrays pairwise: short dependency chains, and less rounding than in order."""
    level = list(terms)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def pad_rows(
    x: Float[Array, "channel height row"], batch: int
) -> Float[Array, "channel height_2 row_2"]:
    """Adds one pixel of zeros on all four sides."""
    return jnp.pad(x, ((0, 0), (1, 1), (batch, batch)))


def convolve_rows(
    padded: Float[Array, "in_channel height_2 row_2"],
    weight: Float[Array, "channel in_channel 3 3"],
    batch: int,
) -> Float[Array, "channel height row"]:
    """Cross-correlates padded rows with 3x3 kernels (what networks call a convolution).

    One sum for each input channel, then the sums: a single running sum over all
    `9 * in_channel` products would wait four cycles for each of them.
    """
    height = padded.shape[1] - 2
    row = padded.shape[2] - 2 * batch
    sums = []
    for i in range(padded.shape[0]):
        total = None
        for dy in range(3):
            for dx in range(3):
                shifted = padded[i : i + 1, dy : dy + height, dx * batch :][:, :, :row]
                term = weight[:, i, dy, dx][:, None, None] * shifted
                total = term if total is None else total + term
        sums.append(total)
    return tree_sum(sums)


def transposed(
    weight: Float[Array, "channel in_channel 3 3"],
) -> Float[Array, "in_channel channel 3 3"]:
    """The kernels whose convolution is the adjoint map of the given ones."""
    return jnp.flip(jnp.swapaxes(weight, 0, 1), (2, 3))


def weight_cotangent(
    z_bar: Float[Array, "channel height row"],
    padded: Float[Array, "in_channel height_2 row_2"],
    batch: int,
) -> Float[Array, "channel in_channel 3 3"]:
    """Gradient of `convolve_rows` with respect to its kernels, as one matrix product.

    Three column shifts of the cotangent against three row shifts of the input give all
    nine shifts from 3 + 3 copies (nine products, or an im2col with its nine copies, take
    two to three times as long).
    """
    channels, height, _ = z_bar.shape
    columns = [
        jnp.pad(z_bar, ((0, 0), (0, 0), (dx * batch, (2 - dx) * batch)))
        for dx in range(3)
    ]
    rows = [padded[:, dy : dy + height] for dy in range(3)]
    left = jnp.stack(columns).reshape(3 * channels, -1)
    right = jnp.stack(rows).reshape(3 * padded.shape[0], -1)
    products = lax.dot_general(
        left,
        right,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )
    shaped = products.reshape(3, channels, 3, padded.shape[0])
    return jnp.transpose(shaped, (1, 3, 2, 0))
