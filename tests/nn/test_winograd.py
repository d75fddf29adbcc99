"""The convolution in tiles against `lax.conv`: values, gradients and rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode._jax_versions import enable_x64
from jaxode.nn import kernels
from jaxode.nn.kernels.dispatch import prefers_tiles, TILES_FROM, TILES_UP_TO
from jaxode.nn.kernels.winograd import convolve_in_tiles, cotangents_in_tiles
from jaxode.nn.paper_fields import PaperField


# channels out and in, height, width, batch
SIZES = {
    "whole_tiles": (5, 4, 6, 6, 3),
    "cut_tiles": (3, 4, 7, 5, 2),
    "less_than_a_tile": (2, 3, 1, 2, 4),
}


def draw(size, dtype):
    """Image and cotangent, batch first, and kernels."""
    channels, in_channels, height, width, batch = size
    rng = np.random.default_rng(0)
    shapes = (
        (batch, in_channels, height, width),
        (batch, channels, height, width),
        (channels, in_channels, 3, 3),
    )
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def merged(x):
    x = jnp.transpose(x, (1, 2, 3, 0))
    return x.reshape(*x.shape[:2], -1)


@jax.jit
def in_tiles(x, z_bar, weight):
    """Output and cotangents of input and kernels, merged."""
    batch = x.shape[0]
    rows = merged(x)
    z = convolve_in_tiles(rows, weight, batch=batch)
    return z, *cotangents_in_tiles(merged(z_bar), rows, weight, batch=batch)


@jax.jit
def plain(x, z_bar, weight):
    """The same by `lax.conv` and JAX's own derivatives."""
    form = lambda x, weight: kernels.conv_plain(x, weight, None, "SAME")
    z, vjp = jax.vjp(form, x, weight)
    x_bar, weight_bar = vjp(z_bar)
    return merged(z), merged(x_bar), weight_bar


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_convolution_in_tiles_and_its_cotangents_match_plain(size, x64):
    given = draw(SIZES[size], "float64")
    for found, truth in zip(in_tiles(*given), plain(*given), strict=True):
        # observed 2.9e-15
        np.testing.assert_allclose(found, truth, atol=3e-14 * np.max(np.abs(truth)))


@pytest.mark.slow
def test_rounding_of_tiles_is_a_few_times_that_of_plain():
    # 64 channels, as the paper's network has. Truth: `lax.conv` in float64.
    given = draw((64, 64, 6, 6, 16), "float32")
    found = in_tiles(*given)
    with enable_x64(True):
        double = [jnp.asarray(np.asarray(x), "float64") for x in given]
        truth = [np.asarray(x) for x in plain(*double)]
    for x, y in zip(found, truth, strict=True):
        error = np.sqrt(np.mean((np.asarray(x, np.float64) - y) ** 2))
        # observed 1.1e-6; `lax.conv` in float32 has 3.5e-7
        assert error < 3e-6 * np.sqrt(np.mean(y**2))


@pytest.mark.slow
def test_cotangents_in_tiles_are_differentiated_right(x64):
    # Forward over reverse, as for Hessian-vector products.
    x, z_bar, weight = draw(SIZES["cut_tiles"], "float64")
    tangents = (x[::-1], z_bar[::-1], weight[::-1])
    derivative = lambda form: jax.jvp(form, (x, z_bar, weight), tangents)[1]
    for found, truth in zip(derivative(in_tiles), derivative(plain), strict=True):
        # observed 9.8e-16
        np.testing.assert_allclose(found, truth, atol=3e-14 * np.max(np.abs(truth)))


@pytest.mark.slow
def test_field_of_many_channels_matches_plain(x64):
    field = PaperField(64, key=jax.random.key(0))
    twin = PaperField(64, key=jax.random.key(0), plain=True)
    assert prefers_tiles(field.conv1.weight[:, 1:].shape, 36)
    y, bar = draw((64, 64, 6, 6, 2), "float64")[:2]

    def value_and_cotangents(field):
        out, vjp = jax.vjp(lambda f, t, y: f(t, y, None), field, 0.3, y)
        return jax.tree.leaves([out, vjp(bar)])

    found, truth = (jax.jit(value_and_cotangents)(f) for f in (field, twin))
    for a, b in zip(found, truth, strict=True):
        # observed 3.9e-15
        np.testing.assert_allclose(a, b, atol=4e-14 * np.max(np.abs(b)))


def test_tiles_are_for_many_channels_and_few_pixels():
    wide = (TILES_FROM, TILES_FROM, 3, 3)
    assert prefers_tiles(wide, TILES_UP_TO)
    assert not prefers_tiles(wide, TILES_UP_TO + 1)
    assert not prefers_tiles((TILES_FROM, TILES_FROM - 1, 3, 3), TILES_UP_TO)
