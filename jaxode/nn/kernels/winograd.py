"""3x3 convolution by tiles of 3x3 pixels, each a product at 25 points.

A convolution is a product of polynomials. Of two with 3 coefficients each, the product
is known by its values at 5 points, so 3 output pixels in a row take 5 multiplications
instead of 9, and a tile of 3x3 pixels 25 instead of 81. With channels in place of
numbers each multiplication is a product of matrices, which a CPU does at full speed:

    z = A^T [(G w G^T) * (B^T x B)] A    (for each tile; * point by point)

The points are 0, 1, -1, 2 and infinity. In float32 the error is three times that of
`lax.conv` (1e-6 of the result where that has 3e-7, with 64 channels): smaller tiles
round less, larger ones save more.

All of it is linear in the image and in the kernels, so the gradients are the transposed
maps: the same passes with the matrices of the other end.

Rows are `(channel, height, width*batch)`, as in `conv`. Nothing is padded: where a tile
reaches over the edge, the terms of the zeros there are left out.

Reference:
    Winograd 1980, Arithmetic Complexity of Computations; Lavin & Gray 2016,
    arXiv:1509.09308, for networks.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._steps.noinline import noinline
from .conv_forms import dot


Kernels: TypeAlias = Float[Array, "channel in_channel 3 3"]
Input: TypeAlias = Float[Array, "in_channel height row"]
Output: TypeAlias = Float[Array, "channel height row"]
# Values at the points: rows' point, columns' point, channel, tiles and their images.
AtPoints: TypeAlias = Float[Array, "5 5 channel tile_row"]
End = Literal["input", "output"]

_TILE = 3
# A^T, from values at the points to the three pixels of a tile.
_TO_PIXELS = np.array(
    [[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 1]], dtype=np.float64
)
# G, from the kernel to the points.
_OF_KERNEL = np.array(
    [
        [1 / 2, 0, 0],
        [1 / 2] * 3,
        [1 / 6, -1 / 6, 1 / 6],
        [1 / 6, 1 / 3, 2 / 3],
        [0, 0, 1],
    ]
)
# B^T, from the five pixels that a tile reads to the points.
_OF_PIXELS = np.array(
    [
        [2, -1, -2, 1, 0],
        [0, 2, 1, -1, 0],
        [0, -2, 3, -1, 0],
        [0, -1, 0, 1, 0],
        [0, 2, -1, -2, 1],
    ],
    dtype=np.float64,
)


def convolve_in_tiles(x: Input, weight: Kernels, *, batch: int) -> Output:
    """Cross-correlates with 3x3 kernels, a pixel of zeros around.

    Args:
        x: Input.
        weight: Kernels, output channel first.
        batch: Number of images in a row.
    """
    size = x.shape[1], x.shape[2] // batch
    points = _product(_kernels_at_points(weight), to_points(x, "input", batch=batch))
    return from_points(points, "output", size=size, batch=batch)


def cotangents_in_tiles(
    z_bar: Output, x: Input, weight: Kernels, *, batch: int
) -> tuple[Input, Kernels]:
    """Gradients of `convolve_in_tiles` with respect to input and kernels.

    Args:
        z_bar: Cotangent of its output.
        x: As there, and so are the rest.
        weight: Kernels.
        batch: Number of images in a row.
    """
    size = x.shape[1], x.shape[2] // batch
    bars = to_points(z_bar, "output", batch=batch)
    swapped = _kernels_at_points(jnp.swapaxes(weight, 0, 1))
    x_bar = from_points(_product(swapped, bars), "input", size=size, batch=batch)
    weight_bar = _kernels_back(_outer(bars, to_points(x, "input", batch=batch)))
    return x_bar, weight_bar


def to_points(x: Output, end: End, *, batch: int) -> AtPoints:
    """An image at the points: of what tiles read, or, transposed, of what they give."""
    return _columns_to_points(_rows_to_points(x, end=end), end=end, batch=batch)


def from_points(
    points: AtPoints, end: End, *, size: tuple[int, int], batch: int
) -> Output:
    """The transpose of `to_points`: an image of `size` from values at the points."""
    columns = _columns_from_points(points, end=end, width=size[1], batch=batch)
    return _rows_from_points(columns, end=end, height=size[0])


# Each pass is a unit of its own: fused, the first would be computed anew for every
# reader in the second.


@noinline("end")
def _rows_to_points(x: Output, *, end: End) -> Float[Array, "5 channel tile row"]:
    matrix = _matrix(end, x.shape[1])
    rows = [x[:, p] for p in range(x.shape[1])]
    return jnp.stack([jnp.stack([_sum(m, rows) for m in of], 1) for of in matrix])


@noinline("end", "batch")
def _columns_to_points(
    rows: Float[Array, "5 channel tile row"], *, end: End, batch: int
) -> AtPoints:
    pixels = rows.reshape(*rows.shape[:3], -1, batch)
    columns = [pixels[:, :, :, p] for p in range(pixels.shape[3])]
    matrix = _matrix(end, len(columns))
    points = [jnp.stack([_sum(m, columns) for m in of], 3) for of in matrix]
    return jnp.stack(points, 1).reshape(5, 5, rows.shape[1], -1)


@noinline("end", "width", "batch")
def _columns_from_points(
    points: AtPoints, *, end: End, width: int, batch: int
) -> Float[Array, "5 channel tile row"]:
    matrix = _matrix(end, width)
    channels, tiles = points.shape[2], matrix.shape[1]
    split = points.reshape(5, 5, channels, -1, tiles, batch)
    terms = [split[:, k, :, :, t] for k in range(5) for t in range(tiles)]
    columns = [_sum(matrix[:, :, p].reshape(-1), terms) for p in range(width)]
    return jnp.stack(columns, 3).reshape(5, channels, -1, width * batch)


@noinline("end", "height")
def _rows_from_points(
    columns: Float[Array, "5 channel tile row"], *, end: End, height: int
) -> Output:
    matrix = _matrix(end, height)
    terms = [columns[k, :, t] for k in range(5) for t in range(matrix.shape[1])]
    rows = [_sum(matrix[:, :, p].reshape(-1), terms) for p in range(height)]
    return jnp.stack(rows, 1)


def _matrix(end: End, pixels: int) -> np.ndarray:
    """What each pixel of a row counts at each point of each tile: `(5, tile, pixel)`.

    At the end of the input a tile reads from the pixel before its first to that after
    its last.
    """
    values, first = (_OF_PIXELS, -1) if end == "input" else (_TO_PIXELS.T, 0)
    tiles = -(-pixels // _TILE)
    matrix = np.zeros((5, tiles, pixels))
    for tile in range(tiles):
        for i in range(values.shape[1]):
            pixel = _TILE * tile + first + i
            if 0 <= pixel < pixels:
                matrix[:, tile, pixel] = values[:, i]
    return matrix


def _sum(factors: np.ndarray, arrays: Sequence[Array]) -> Array:
    """The sum of the arrays times their factors; those of zero are left out."""
    if not np.any(factors):
        return jnp.zeros_like(arrays[0])
    terms = [
        array if factor == 1 else float(factor) * array
        for factor, array in zip(factors, arrays, strict=True)
        if factor
    ]
    return functools.reduce(operator.add, terms)


@noinline()
def _kernels_at_points(weight: Kernels) -> Float[Array, "25 in_channel channel"]:
    """Input channel first: products then run over rows, which is faster by a third."""
    channels, in_channels = weight.shape[:2]
    flat = jnp.swapaxes(weight, 0, 1).reshape(-1, 9)
    points = dot(_kernel_matrix(weight.dtype), flat, ((1,), (1,)))
    return points.reshape(25, in_channels, channels)


@noinline()
def _kernels_back(points: Float[Array, "25 channel in_channel"]) -> Kernels:
    """The transpose of `_kernels_at_points`; the output channel is first."""
    channels, in_channels = points.shape[1:]
    matrix = _kernel_matrix(points.dtype)
    flat = dot(matrix, points.reshape(25, -1), ((0,), (0,)))
    return flat.T.reshape(channels, in_channels, 3, 3)


def _kernel_matrix(dtype) -> Float[Array, "25 9"]:
    return jnp.asarray(np.kron(_OF_KERNEL, _OF_KERNEL), dtype)


@noinline()
def _product(
    kernels: Float[Array, "25 in_channel channel"],
    points: Float[Array, "5 5 in_channel tile_row"],
) -> AtPoints:
    """At each point the kernels times the image."""
    flat = points.reshape(25, *points.shape[2:])
    out = dot(kernels, flat, ((1,), (1,)), ((0,), (0,)))
    return out.reshape(5, 5, *out.shape[1:])


@noinline()
def _outer(
    bars: AtPoints, points: Float[Array, "5 5 in_channel tile_row"]
) -> Float[Array, "25 channel in_channel"]:
    """At each point the cotangents times the image: the cotangent of the kernels."""
    flat = lambda x: x.reshape(25, *x.shape[2:])
    return dot(flat(bars), flat(points), ((2,), (2,)), ((0,), (0,)))
