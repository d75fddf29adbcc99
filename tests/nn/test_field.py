"""Tests of the vector fields."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.nn import ConvField


ACTIVATIONS = ("relu", "softplus", "tanh")


def with_drawn_norm(field, key):
    """Scale and offset that are not ones and zeros, which would hide half of a bug."""
    scale_key, offset_key = jax.random.split(key)
    weight = 1 + 0.3 * jax.random.normal(scale_key, field.norm.weight.shape)
    bias = 0.3 * jax.random.normal(offset_key, field.norm.bias.shape)
    return eqx.tree_at(lambda f: (f.norm.weight, f.norm.bias), field, (weight, bias))


def relative_error(tree, expected):
    """Largest error of any leaf, over the largest entry in that leaf, or over 1.

    The gradient of the convolution's bias is zero where each channel is normalised on
    its own, so it has no size to compare an error with.
    """
    errors = jax.tree.map(
        lambda x, e: jnp.max(jnp.abs(x - e)) / jnp.maximum(jnp.max(jnp.abs(e)), 1),
        tree,
        expected,
    )
    return float(max(jax.tree.leaves(errors)))


def value_and_pullback(field, y, cotangent):
    arrays, static = eqx.partition(field, eqx.is_array)
    value, pullback = jax.vjp(
        lambda arrays, y: eqx.combine(arrays, static)(0.0, y, None), arrays, y
    )
    return value, pullback(cotangent)


def check_fast_against_plain(getkey, channels, activation, tolerance):
    key, norm_key = getkey(), getkey()
    shape = (3, channels, 9, 7)
    # A state with a mean, so that a variance computed in one pass has to try.
    y = 5 + 2 * jax.random.normal(getkey(), shape)
    cotangent = jax.random.normal(getkey(), shape)
    outcomes = []
    for plain in (False, True):
        field = ConvField(channels, key=key, plain=plain, activation=activation)
        field = with_drawn_norm(field, norm_key)
        outcomes.append(jax.tree.leaves(value_and_pullback(field, y, cotangent)))
    assert relative_error(*outcomes) < tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fast_field_equals_plain_autodiff(getkey, activation):
    # Observed 2e-5 in the bias, which is rounding in the plain form (exactly: zero).
    check_fast_against_plain(getkey, 6, activation, 1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fast_field_equals_plain_autodiff_in_double_precision(x64, getkey, activation):
    # Observed 4e-14, in the bias too.
    check_fast_against_plain(getkey, 6, activation, 1e-13)


@pytest.mark.parametrize("channels", [1, 2, 32, 64])
def test_field_has_at_most_32_groups(getkey, channels):
    assert ConvField(channels, key=getkey()).groups == min(32, channels)


@pytest.mark.parametrize("channels", [0, -1, 33, 40])
def test_channels_that_groups_do_not_divide_are_refused(getkey, channels):
    with pytest.raises(ValueError, match=f"channels={channels} cannot .* multiple of"):
        ConvField(channels, key=getkey())


def test_unknown_activation_is_refused_with_the_list(getkey):
    with pytest.raises(ValueError, match="'gelu'.*'relu', 'softplus', 'tanh'"):
        ConvField(6, key=getkey(), activation="gelu")


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_convolution_starts_uniform_within_one_over_root_fan_in(getkey, name):
    draws = [ConvField(64, key=getkey()).conv for _ in range(30)]
    values = np.concatenate([np.ravel(getattr(conv, name)) for conv in draws])
    bound = 1 / (64 * 9) ** 0.5
    assert np.max(np.abs(values)) <= bound
    # 1,920 draws at least: the deviation of a uniform is known to 1.3 %.
    np.testing.assert_allclose(np.std(values), bound / 3**0.5, rtol=0.05)
    np.testing.assert_allclose(np.mean(values), 0, atol=0.05 * bound)


def test_norm_starts_at_one_and_zero(getkey):
    norm = ConvField(6, key=getkey()).norm
    np.testing.assert_array_equal(norm.weight, np.ones(6, np.float32))
    np.testing.assert_array_equal(norm.bias, np.zeros(6, np.float32))


def test_weights_do_not_depend_on_the_form(getkey):
    key = getkey()
    fast, plain = (ConvField(6, key=key, plain=plain) for plain in (False, True))
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_output_is_normalised_for_each_image_and_channel(getkey):
    y = jax.random.normal(getkey(), (4, 6, 10, 10))
    dy = ConvField(6, key=getkey())(0.0, y, None)
    # Observed 1e-7.
    np.testing.assert_allclose(jnp.mean(dy, (2, 3)), np.zeros((4, 6)), atol=1e-5)
    # Observed 1.3e-4: 1e-5 is added to the convolution's variance, which is about 0.1.
    np.testing.assert_allclose(jnp.var(dy, (2, 3)), np.ones((4, 6)), atol=2e-3)


def test_packing_is_undone_by_unpacking(getkey):
    y = jax.random.normal(getkey(), (5, 6, 4, 3))
    form = ConvField(6, key=getkey()).solve_form(y)
    np.testing.assert_array_equal(form.unpack(form.pack(y)), y)


def test_gradient_through_the_packed_field_reaches_the_fields_own_arrays(x64, getkey):
    key, norm_key = getkey(), getkey()
    y, cotangent = (jax.random.normal(getkey(), (5, 6, 4, 3)) for _ in range(2))

    def packed(field):
        form = field.solve_form(y)
        dy = form.unpack(form.field(0.0, form.pack(y), None))
        return jnp.sum(dy * cotangent)

    fast, plain = (
        with_drawn_norm(ConvField(6, key=key, plain=plain), norm_key)
        for plain in (False, True)
    )
    grads = jax.tree.leaves(eqx.filter_grad(packed)(fast))
    expected = jax.tree.leaves(value_and_pullback(plain, y, cotangent)[1][0])
    # Observed 9e-15.
    assert relative_error(grads, expected) < 1e-13


def test_plain_field_is_integrated_as_it_is(getkey):
    field = ConvField(6, key=getkey(), plain=True)
    assert field.solve_form(jnp.zeros((5, 6, 4, 3))).field is field


def test_field_maps_over_weights_and_states(x64, getkey):
    keys = jax.random.split(getkey(), 3)
    ys = jax.random.normal(getkey(), (3, 1, 6, 4, 5))
    fields = eqx.filter_vmap(lambda key: ConvField(6, key=key))(keys)
    mapped = eqx.filter_vmap(lambda field, y: field(0.0, y, None))(fields, ys)
    one_by_one = [
        ConvField(6, key=key)(0.0, y, None) for key, y in zip(keys, ys, strict=True)
    ]
    # Observed 0.
    assert relative_error(mapped, jnp.stack(one_by_one)) < 1e-13


def test_plain_field_has_derivatives_forwards(x64, getkey):
    field = ConvField(2, key=getkey(), plain=True)
    y, direction, cotangent = (
        jax.random.normal(getkey(), (2, 2, 5, 4), jnp.float64) for _ in range(3)
    )
    field = jax.tree.map(lambda x: x.astype(jnp.float64), field)
    call = lambda y: field(0.0, y, None)
    _, forwards = jax.jvp(call, (y,), (direction,))
    _, pullback = jax.vjp(call, y)
    np.testing.assert_allclose(
        jnp.vdot(cotangent, forwards),
        jnp.vdot(pullback(cotangent)[0], direction),
        rtol=1e-12,  # observed 2e-16
    )
