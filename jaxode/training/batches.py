"""Which images a training step sees, and how they are moved about.

Both are functions of a key and a number, with no state anywhere: a run that was resumed
sees what an uninterrupted one sees.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, Num


@partial(jax.jit, static_argnames=("num_images", "batch_size"))
def epoch_order(
    key: Key[Array, ""], epoch: Int[Array, ""] | int, num_images: int, batch_size: int
) -> Int[Array, "batches batch"]:
    """Shuffles the images of one epoch into batches, from `key` and `epoch` alone.

    Every image comes at least once. A last batch that would be short is filled up from
    the start of the shuffled order, so that every step has one shape.

    Args:
        key: Fixed for the whole run.
        epoch: Number of the epoch.
        num_images: Size of the training set.
        batch_size: Images per step.

    Returns:
        Indices into the training set, one row for each step.

    Examples:
        >>> import jax
        >>> import jaxode
        >>> order = jaxode.training.epoch_order(
        ...     jax.random.key(0), 3, num_images=8, batch_size=4
        ... )
        >>> sorted(order.ravel().tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
    num_batches = -(-num_images // batch_size)
    return jnp.resize(order.astype(jnp.int32), (num_batches, batch_size))


def random_shift(
    key: Key[Array, ""],
    images: Num[Array, "batch height width 1"],
    max_shift: int,
) -> Num[Array, "batch height width 1"]:
    """Moves each image by up to `max_shift` pixels each way; edges are repeated.

    Args:
        key: Source of the shifts.
        images: One batch.
        max_shift: Largest shift along either axis, in pixels, >= 0.

    Returns:
        The moved images.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> images = jnp.ones((2, 28, 28, 1), jnp.uint8)
        >>> jaxode.training.random_shift(jax.random.key(0), images, 2).shape
        (2, 28, 28, 1)
    """
    return shifted(images, draw_shifts(key, len(images), max_shift))


def draw_shifts(
    key: Key[Array, ""], batch: int, max_shift: int
) -> Int[Array, "2 batch 1"]:
    """How far each image of a batch is moved, down and to the right."""
    return jax.random.randint(key, (2, batch, 1), -max_shift, max_shift + 1)


def shifted(
    images: Num[Array, "batch height width 1"], shifts: Int[Array, "2 batch 1"]
) -> Num[Array, "batch height width 1"]:
    """Moves each image; edges are repeated."""
    height, width = images.shape[1:3]
    rows = jnp.clip(jnp.arange(height)[None] + shifts[0], 0, height - 1)
    columns = jnp.clip(jnp.arange(width)[None] + shifts[1], 0, width - 1)
    return _at(images, rows, columns)


def random_crop(
    key: Key[Array, ""],
    images: Num[Array, "batch height width 1"],
    padding: int,
) -> Num[Array, "batch height width 1"]:
    """Puts zeros around each image and cuts one of its size out of that, at random.

    Args:
        key: Source of the places.
        images: One batch of grey levels, whose zero is the background.
        padding: Rows and columns of zeros on each side, >= 0.

    Returns:
        The images, moved by up to `padding` pixels each way.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> images = jnp.ones((2, 28, 28, 1), jnp.uint8)
        >>> jaxode.training.random_crop(jax.random.key(0), images, 4).shape
        (2, 28, 28, 1)
    """
    return cropped(images, draw_shifts(key, len(images), padding), padding)


def cropped(
    images: Num[Array, "batch height width 1"],
    shifts: Int[Array, "2 batch 1"],
    padding: int,
) -> Num[Array, "batch height width 1"]:
    """Moves each image by up to `padding` pixels; zeros come in from the sides."""
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    rows = jnp.arange(images.shape[1])[None] + padding + shifts[0]
    columns = jnp.arange(images.shape[2])[None] + padding + shifts[1]
    return _at(jnp.pad(images, sides), rows, columns)


def _at(
    images: Num[Array, "batch in_height in_width 1"],
    rows: Int[Array, "batch height"],
    columns: Int[Array, "batch width"],
) -> Num[Array, "batch height width 1"]:
    each = jnp.arange(len(images))[:, None, None]
    return images[each, rows[:, :, None], columns[:, None, :]]
