"""One batch on several devices; two are simulated in a process of their own."""

import os
import subprocess
import sys

import pytest


TWO_DEVICES = """
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode

assert jax.device_count() == 2
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
        order=jaxode.training.epoch_order(jax.random.key(0), 0, 48, 8),
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
    return state, metrics, test


one = run(None)
mesh = Mesh(np.array(jax.devices()), "batch")
two = run(NamedSharding(mesh, PartitionSpec("batch")))
for single, double in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    # The halves are added up in another order, nothing more.
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)
assert len(jax.tree.leaves(two)[0].sharding.device_set) == 2
"""


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_devices():
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
