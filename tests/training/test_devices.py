"""One batch on several devices, which are simulated in a process of their own."""

import os
import subprocess
import sys

import jax
import pytest


FOUR_DEVICES = """
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode

assert jax.device_count() == 4
optimiser = optax.sgd(0.05, momentum=0.9)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (48, 28, 28, 1)).astype(np.uint8)
labels = rng.integers(0, 10, 48).astype(np.int32)


def run(sharding):
    def place(tree):
        if sharding is None:
            return tree
        return jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))

    model = jaxode.nn.ODENet(2, key=jax.random.key(1), adjoint="backsolve")
    state = place(jaxode.training.TrainState.create(model, optimiser))
    data = jaxode.training.TrainData(
        images=jnp.asarray(images),
        labels=jnp.asarray(labels),
        order=jaxode.training.epoch_order(jax.random.key(0), 0, 48, 9),
        rows=jnp.asarray([0, 4], jnp.int32),
        key=jax.random.key(2),
    )
    data, metrics = place((data, jaxode.training.Metrics.zeros()))
    options = dict(optimiser=optimiser, max_shift=1, sharding=sharding)
    lowered = jaxode.training.train_steps.lower(data, state, metrics, **options)
    program = lowered.compile()
    state, metrics = program(data, state, metrics, **options)
    test = jaxode.training.evaluate(
        state.model, data.images, data.labels, batch_size=10, sharding=sharding
    )
    return (state, metrics, test), program.compiled.as_text()


one, _ = run(None)
mesh = Mesh(np.array(jax.devices()), "batch")
four, text = run(NamedSharding(mesh, PartitionSpec("batch")))
for single, divided in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    # The parts are added up in another order, nothing more.
    np.testing.assert_allclose(single, divided, rtol=1e-4, atol=1e-5)
assert len(jax.tree.leaves(four)[0].sharding.device_set) == 4

# Nothing is gathered; beside numbers devices exchange the gradient once, and the
# backward solve's view of the field's parameters: 2 x 2 x 9 + 2 + 2 + 2, three times.
kinds = "all-gather|all-to-all|collective-permute|reduce-scatter"
assert not re.search(rf" ({kinds})(-start)?\\(", text)
shapes = re.findall(r"= (.+?) all-reduce(?:-start)?\\(", text)
sizes = [int(n) for shape in shapes for n in re.findall(r"f32\\[(\\d+)\\]", shape)]
parameters = sum(x.size for x in jax.tree.leaves(one[0].model))
assert sorted(sizes)[:1] == [3 * 42] and len(sizes) == 2, sizes
assert parameters <= sizes[-1] or parameters <= sizes[0], sizes
"""


COSTS_AND_PIECES = """
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode

training = jaxode.training
optimiser = optax.sgd(0.05)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (20, 28, 28, 1)).astype(np.uint8)
labels = rng.integers(0, 10, 20).astype(np.int32)
costs = jaxode.nn.Regularisers(kinetic=1.0, jacobian=1.0)


def run(num_devices, accumulate, joint=True):
    model = jaxode.nn.ODENet(
        2,
        key=jax.random.key(1),
        regularisers=costs,
        solver=diffrax.Heun(),
        rtol=None,
        atol=None,
        dt0=0.5,
        max_steps=2,
    )
    sharding = None
    if num_devices > 1:
        mesh = Mesh(np.array(jax.devices()[:num_devices]), "batch")
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
    order = training.epoch_order(jax.random.key(0), 0, 20, 9)
    rows = jnp.asarray([0, 2], jnp.int32)
    given = jnp.asarray(images), jnp.asarray(labels), order, rows
    data = training.TrainData(*given, jax.random.key(2))
    state = training.TrainState.create(model, optimiser)
    start = data, state, training.Metrics.zeros()
    if sharding is not None:
        start = jax.device_put(start, NamedSharding(mesh, PartitionSpec()))
    options = dict(sharding=sharding, accumulate=accumulate, joint=joint)
    options |= dict(optimiser=optimiser, max_shift=1)
    state, metrics = training.train_steps(*start, **options)
    assert int(metrics.total) == 18 and int(metrics.num_skipped) == 0
    return jax.tree.leaves(state.model) + [metrics.loss]


def differ(one, other):
    pairs = zip(one, other, strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)


one = run(1, 1)
for settings in [(2, 1), (4, 1), (1, 2), (4, 2), (4, 4), (4, 1, False)]:
    found = differ(run(*settings), one)
    print(settings, found)
    assert found < 1e-5, (settings, found)
"""


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_running_costs_and_pieces_do_not_depend_on_the_number_of_devices():
    """Nine images on 1, 2 and 4 devices, at once and in pieces; equal steps.

    Observed 3e-7.
    """
    run_on_four_devices(COSTS_AND_PIECES)


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_devices():
    """A batch of nine on four devices, scored in batches of ten."""
    run_on_four_devices(FOUR_DEVICES)


def run_on_four_devices(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
