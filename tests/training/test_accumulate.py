"""One update from several pieces of a batch."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, PyTree

import jaxode
from jaxode.training import (
    batch_columns,
    Metrics,
    train_step,
    train_steps,
    TrainBatches,
    TrainState,
)
from jaxode.training.layout import Layout


# With a step of one along it the gradient is the difference of the parameters.
OPTIMISER = optax.sgd(1.0)
EQUAL_STEPS = dict(solver=diffrax.Heun(), rtol=None, atol=None, dt0=0.5, max_steps=2)
COSTS = jaxode.nn.Regularisers(kinetic=0.1, jacobian=0.1)


def batch(size: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 28, 28, 1)).astype(np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, size), jnp.int32)


def gradient(accumulate: int, size: int, **settings) -> tuple[PyTree, Metrics]:
    model = jaxode.nn.ODENet(2, key=jax.random.key(1), **settings)
    state = TrainState.create(model, OPTIMISER)
    options: Any = dict(
        optimiser=OPTIMISER, key=jax.random.key(2), accumulate=accumulate
    )
    after, metrics = train_step(state, *batch(size), **options)
    arrays = lambda net: eqx.filter(net, eqx.is_array)
    return jax.tree.map(jnp.subtract, arrays(model), arrays(after.model)), metrics


def difference(actual: PyTree, expected: PyTree) -> float:
    """The largest, by the largest entry; some parameters have no gradient at all."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    largest = max(float(jnp.max(jnp.abs(e))) for e in jax.tree.leaves(expected))
    return max(float(jnp.max(jnp.abs(a - e))) for a, e in pairs) / largest


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_layout_has_every_image_once_and_equal_pieces(size, num_devices, accumulate):
    layout = Layout(size, num_devices, accumulate)
    columns = batch_columns(size, num_devices, accumulate)
    shape = num_devices, layout.num_pieces, layout.rows
    places = [layout.places(device) for device in range(num_devices)]
    counts = np.stack([found.counts for found in places])
    index = np.stack([found.place for found in places])
    assert counts.shape == shape
    assert sorted(columns.reshape(shape)[counts]) == list(range(size))
    np.testing.assert_array_equal(columns.reshape(shape)[counts], index[counts])
    # A piece has the same images, however many devices there are.
    one = Layout(size, 1, accumulate).columns.reshape(layout.num_pieces, layout.piece)
    for piece, images in enumerate(one):
        assert set(columns.reshape(shape)[:, piece].ravel()) == set(images)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_pieces_add_up_to_the_gradient_of_the_batch(accumulate):
    """Nine images, of which four pieces of three are filled up; with running costs."""
    settings = EQUAL_STEPS | dict(regularisers=COSTS)
    expected, whole = gradient(1, 9, **settings)
    actual, metrics = gradient(accumulate, 9, **settings)
    # Observed 9e-7: the images are added up in another order.
    assert difference(actual, expected) < 1e-5
    np.testing.assert_allclose(metrics.loss, whole.loss, rtol=1e-5)
    assert (int(metrics.total), int(metrics.correct)) == (9, int(whole.correct))
    assert int(metrics.batches) == {2: 2, 4: 3}[accumulate]


@pytest.mark.slow
def test_pieces_of_one_adaptive_ode_agree_within_its_tolerance():
    """Each piece takes steps of its own, so rounding is not what is left."""
    expected, _ = gradient(1, 8, rtol=1e-4, atol=1e-4, max_steps=500)
    actual, _ = gradient(4, 8, rtol=1e-4, atol=1e-4, max_steps=500)
    # Observed 2e-4.
    assert 1e-6 < difference(actual, expected) < 2e-3


@pytest.mark.slow
def test_failure_of_one_piece_leaves_the_whole_update_out():
    """One step is enough for some images of a batch, and not for others."""
    model = jaxode.nn.ODENet(2, key=jax.random.key(1))
    images, labels = batch(8)
    images = images.astype(jnp.float32).at[5].set(jnp.nan)
    state = TrainState.create(model, OPTIMISER)
    after, metrics = train_step(
        state, images, labels, optimiser=OPTIMISER, accumulate=4
    )
    assert int(metrics.num_skipped) == 1 and int(metrics.total) == 0
    assert int(after.step) == 1 and int(after.skipped_in_a_row) == 1
    for a, b in zip(jax.tree.leaves(after.model), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_pieces_need_the_memory_of_one():
    model = jaxode.nn.ODENet(6, key=jax.random.key(1))
    state = TrainState.create(model, OPTIMISER)
    step: Any = train_step

    def temporary_bytes(accumulate: int) -> int:
        options = dict(optimiser=OPTIMISER, accumulate=accumulate)
        program = step.lower(state, *batch(64), **options).compile()
        return program.compiled.memory_analysis().temp_size_in_bytes

    one, four = temporary_bytes(1), temporary_bytes(4)
    # Observed 0.26.
    assert four < 0.35 * one


@pytest.mark.slow
def test_batches_that_lie_otherwise_are_refused():
    """Nine images in nine rows, where two pieces of five have ten."""
    images, labels = batch(9)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "rows"), P("rows"))
    rows = jnp.asarray([0, 1], jnp.int32)
    data = TrainBatches(images[None], labels[None], rows, jax.random.key(0), 9)
    state = TrainState.create(jaxode.nn.ODENet(2, key=jax.random.key(1)), OPTIMISER)
    options = dict(optimiser=OPTIMISER, sharding=sharding, accumulate=2)
    steps: Any = train_steps
    with pytest.raises(ValueError, match=r"has 9 rows .* have 10: .*\(9, 1, 2\)"):
        steps.lower(data, state, Metrics.zeros(), **options)
