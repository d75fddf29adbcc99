"""Data order and augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.training.batches import epoch_order, random_crop, random_shift


@pytest.mark.parametrize(("count", "batch_size"), [(60, 15), (60, 8), (7, 20)])
def test_epoch_order_has_every_image_and_whole_batches(count, batch_size):
    order = np.asarray(epoch_order(jax.random.key(0), 3, count, batch_size))
    assert order.shape == (-(-count // batch_size), batch_size)
    counts = np.bincount(order.ravel(), minlength=count)
    # As often as each other, give or take the filling of the last batch.
    assert counts.min() >= 1 and np.ptp(counts) <= 1


def test_epoch_order_depends_on_key_and_epoch_only():
    orders = [
        np.asarray(epoch_order(jax.random.key(seed), epoch, 50, 10))
        for seed, epoch in [(0, 1), (0, 1), (0, 2), (1, 1)]
    ]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[3])


@pytest.mark.parametrize("max_shift", [1, 3])
def test_random_shift_moves_by_every_amount_up_to_the_bound(max_shift):
    # A dot that stays inside says where its image went.
    images = jnp.zeros((500, 28, 28, 1), jnp.uint8).at[:, 14, 14].set(9)
    moved = np.asarray(random_shift(jax.random.key(0), images, max_shift))
    assert moved.dtype == np.uint8 and (moved.sum(axis=(1, 2, 3)) == 9).all()
    _, row, column, _ = np.nonzero(moved)
    reach = set(range(14 - max_shift, 14 + max_shift + 1))
    assert set(zip(row, column, strict=True)) == {(r, c) for r in reach for c in reach}


def test_random_shift_repeats_the_edge():
    images = jnp.arange(28, dtype=jnp.uint8)[None, :, None, None] + 1
    images = jnp.broadcast_to(images, (100, 28, 28, 1))
    moved = np.asarray(random_shift(jax.random.key(0), images, 1))[:, :, 0, 0]
    expected = [np.clip(np.arange(28) + d, 0, 27) + 1 for d in (-1, 0, 1)]
    assert {tuple(m) for m in moved} == {tuple(e) for e in expected}


def test_random_crop_is_every_cut_out_of_the_image_in_its_frame():
    image = np.arange(1, 17, dtype=np.uint8).reshape(4, 4)
    framed = np.pad(image, 2)
    cuts = {
        framed[row : row + 4, column : column + 4].tobytes()
        for row in range(5)
        for column in range(5)
    }
    images = jnp.asarray(np.tile(image[None, :, :, None], (600, 1, 1, 1)))
    cropped = np.asarray(random_crop(jax.random.key(0), images, 2))
    assert {one.tobytes() for one in cropped} == cuts
