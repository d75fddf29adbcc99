"""The plain reference: the network of this library, written with nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, relative_error

import jaxode
from speed.contestants import NETWORKS
from speed.plain_diffrax import ADJOINTS


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [
        ("post", jaxode.nn.ODENet, 2),
        pytest.param("paper", jaxode.nn.PaperNet, 4, marks=pytest.mark.slow),
    ],
)
def test_plain_reference_is_the_same_network(name, kind, channels):
    # Under a fine tolerance, since the two start with steps of different lengths.
    model = kind(channels, key=jax.random.key(0), rtol=1e-4, atol=1e-4)
    weights = jax.tree.map(jnp.asarray, jaxode.nn.to_torch(model))
    network = NETWORKS[name](weights, 1e-4, ADJOINTS["test"], on_call=None)
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1))
    images = grey.astype(np.uint8)
    expected = quick_jit(lambda x: network(x))(images)
    logits = quick_jit(lambda x: model(x))(images)
    assert relative_error(logits, expected) < 1e-3
