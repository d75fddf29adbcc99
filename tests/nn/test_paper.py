"""The networks of the ODE-Net paper: their sizes, and each part against PyTorch's."""

import equinox as eqx
import jax
import pytest

from jaxode.nn import PaperNet, PaperResidualNet


def count(kind, **settings):
    """Parameters of an untrained network; nothing is computed."""
    model = eqx.filter_eval_shape(kind, key=jax.random.key(0), **settings)
    return sum(leaf.size for leaf in jax.tree.leaves(model))


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        # torchdiffeq's issue 32 names the first and the third, its readers the second.
        (PaperNet, {}, 208_266),
        (PaperResidualNet, {}, 576_778),
        (PaperResidualNet, {"num_blocks": 0}, 132_874),
    ],
)
def test_networks_are_as_large_as_the_released_ones(kind, settings, expected):
    assert count(kind, **settings) == expected
