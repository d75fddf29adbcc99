"""The fast forms against their plain twins: values, every gradient, and odd uses."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_for_users, quick_jit, some_slow
from jax import lax

from jaxode._jax_versions import enable_x64
from jaxode._steps.noinline import noinline
from jaxode.nn import kernels
from jaxode.nn.kernels import conv_forms as conv


# channels, height, width, batch, groups
SIZES = {
    "usual": (6, 26, 26, 16, 6),
    "odd": (3, 5, 7, 5, 3),
    "one_image": (6, 8, 9, 1, 6),
    "one_channel": (1, 6, 5, 4, 1),
    "one_row": (2, 1, 9, 3, 2),
    "shared_groups": (6, 5, 7, 3, 2),
    "one_group": (4, 6, 6, 2, 1),
    "two_passes_and_a_bit": (7, 6, 5, 2, 7),
    "high": (2, 70, 4, 2, 2),
    "passes_in_a_loop": (14, 4, 5, 3, 7),
    "wider_than_written_out": (65, 3, 4, 2, 65),
}
USUAL_SIZES = """
    usual odd one_channel shared_groups passes_in_a_loop wider_than_written_out
""".split()
FORM_SIZES = [
    "odd",
    "one_image",
    "one_channel",
    "one_row",
    "two_passes_and_a_bit",
    "passes_in_a_loop",
]
DTYPES = ["float32", "float64"]
# Largest observed error, relative to the largest entry: 2.3e-6 and 5.1e-15.
RTOL = {"float32": 1e-5, "float64": 2e-14}


@pytest.fixture(params=some_slow(DTYPES, "float64"))
def dtype(request):
    """Precision of the test, switched on for it alone."""
    with enable_x64(request.param == "float64"):
        yield request.param


def draw(seed, dtype, *shapes):
    """Standard normal arrays."""
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def field_case(size, dtype):
    """State and cotangent (both in PyTorch's layout), and parameters."""
    channels, height, width, batch, groups = size
    shape = (batch, channels, height, width)
    y, out_bar, weight, bias, scale, offset = draw(
        0, dtype, shape, shape, (channels, channels, 3, 3), *3 * [(channels,)]
    )
    return y, out_bar, (0.3 * weight, bias, 1 + 0.3 * scale, 0.3 * offset), groups


def batch_last(y):
    return jnp.transpose(y, (1, 2, 3, 0))


def batch_first(y):
    return jnp.transpose(y, (3, 0, 1, 2))


def fast(y, *params, **settings):
    """`conv_field` on a state in PyTorch's layout."""
    return batch_first(kernels.conv_field(batch_last(y), *params, **settings))


def assert_close(actual, expected, rtol):
    """Compares pytrees, each array relative to its largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = np.max(np.abs(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


def check_field(size, activation, dtype):
    # Every element of the cotangent differs: all ones give zero through a norm.
    y, out_bar, params, groups = field_case(size, dtype)

    @partial(jax.jit, static_argnums=0)
    def value_and_cotangents(form, y, params, out_bar):
        settings = {"groups": groups, "activation": activation}
        out, vjp = jax.vjp(lambda *a: form(*a, **settings), y, *params)
        return [out, *vjp(out_bar)]

    actual = value_and_cotangents(fast, y, params, out_bar)
    expected = value_and_cotangents(kernels.conv_field_plain, y, params, out_bar)
    if groups == y.shape[1]:
        # The second mean takes the bias out: the twin's gradient is rounding alone.
        assert not jnp.any(actual.pop(3))
        assert jnp.max(jnp.abs(expected.pop(3))) < 1e-5 * jnp.sum(jnp.abs(out_bar))
    assert_close(actual, expected, RTOL[dtype])


@pytest.mark.parametrize("size", some_slow(SIZES, *USUAL_SIZES))
def test_field_and_its_gradients_match_plain(size, x64):
    check_field(SIZES[size], "relu", "float64")


@pytest.mark.parametrize("size", ["usual", "one_image"])
def test_field_and_its_gradients_match_plain_in_single_precision(size):
    check_field(SIZES[size], "relu", "float32")


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
def test_smooth_field_and_its_gradients_match_plain(activation, x64):
    check_field(SIZES["odd"], activation, "float64")


@pytest.mark.parametrize("centre", some_slow([1e2, 1e4], 1e4))
def test_one_pass_variance_survives_an_offset(centre):
    # The mean of squares minus the square of the mean, of y as it is, has no correct
    # digit at 1e4: 1e8, of which float32 keeps eight. Truth: the twin in float64.
    y, out_bar, params, groups = field_case(SIZES["usual"], "float32")
    y = y + centre * (1 + jnp.arange(6, dtype="float32"))[None, :, None, None]

    def value_and_cotangents(form, *arrays):
        @jax.jit
        def both(bar, *rest):
            settings = {"groups": groups, "activation": "tanh"}
            out, vjp = jax.vjp(lambda *a: form(*a, **settings), *rest)
            return out, vjp(bar)

        out, bars = both(*arrays)
        return [np.asarray(a, np.float64) for a in (out, *bars[:2], *bars[3:])]

    def error(found, truth):
        return max(
            np.max(np.abs(a - b)) / np.max(np.abs(b))
            for a, b in zip(found, truth, strict=True)
        )

    single = (out_bar, y, *params)
    ours = value_and_cotangents(fast, *single)
    twins = value_and_cotangents(kernels.conv_field_plain, *single)
    with enable_x64(True):
        double = [jnp.asarray(np.asarray(a), "float64") for a in single]
        truth = value_and_cotangents(kernels.conv_field_plain, *double)
    assert error(ours, truth) < 3 * error(twins, truth)


def test_field_of_equal_pixels_is_finite():
    # Variance zero, up to rounding that may be below zero.
    channels = 3
    y = jnp.full((2, channels, 5, 5), 1e3 / 3, "float32")
    _, _, params, groups = field_case((channels, 5, 5, 2, 3), "float32")
    out, vjp = jax.vjp(lambda *a: fast(*a, groups=groups), y, *params)
    assert all(jnp.all(jnp.isfinite(a)) for a in (out, *vjp(jnp.ones_like(out))))


def test_field_under_vmap_matches_one_by_one(dtype):
    y, out_bar, params, groups = field_case(SIZES["odd"], dtype)
    samples, bars = y[:, None], out_bar[:, None]

    def cotangents(sample, bar):
        out, vjp = jax.vjp(lambda *a: fast(*a, groups=groups), sample, *params)
        return out, vjp(bar)

    actual = jax.jit(jax.vmap(cotangents))(samples, bars)
    one = jax.jit(cotangents)
    one_by_one = [one(s, b) for s, b in zip(samples, bars, strict=True)]
    expected = jax.tree.map(lambda *a: jnp.stack(a), *one_by_one)
    assert_close(actual, expected, RTOL[dtype])


def test_field_in_while_loop_matches_plain():
    y, out_bar, params, groups = field_case(SIZES["odd"], "float32")

    def loop(form):
        def step(carry):
            count, y, bar = carry
            out, vjp = jax.vjp(lambda y: form(y, *params, groups=groups), y)
            return count + 1, y + 0.1 * out, bar + 0.1 * vjp(bar)[0]

        start = (jnp.asarray(0), y, out_bar)
        return lax.while_loop(lambda carry: carry[0] < 5, step, start)[1:]

    expected = jax.jit(lambda: loop(kernels.conv_field_plain))()
    # observed 2e-7
    assert_close(jax.jit(lambda: loop(fast))(), expected, 3e-6)


def test_field_in_scan_has_parameter_gradients_of_plain():
    y, out_bar, params, groups = field_case(SIZES["odd"], "float32")

    def loss(params, form):
        def step(y, _):
            return y + 0.1 * form(y, *params, groups=groups), None

        return jnp.sum(lax.scan(step, y, length=4)[0] * out_bar)

    actual = jax.jit(jax.grad(lambda params: loss(params, fast)))(params)
    expected = jax.jit(jax.grad(lambda params: loss(params, kernels.conv_field_plain)))(
        params
    )
    pick = lambda bars: (bars[0], *bars[2:])  # the bias's is zero and rounding
    assert_close(pick(actual), pick(expected), RTOL["float32"])


def slope_of(form, groups, out_bar):
    """A number that is made of all of a field's gradients."""

    def slope(*arrays):
        call = lambda *a: form(*a, groups=groups, activation="tanh")
        return sum(jnp.sum(jnp.sin(bar)) for bar in jax.vjp(call, *arrays)[1](out_bar))

    return slope


# 70 rows are added up by the other form.
@pytest.mark.parametrize(
    "size",
    some_slow([(4, 5, 4, 2, 2), (2, 3, 3, 2, 1), (2, 70, 3, 2, 1)], (4, 5, 4, 2, 2)),
)
def test_second_derivatives_match_plain(size, x64):
    y, out_bar, params, groups = field_case(size, "float64")
    every = lambda form: jax.grad(slope_of(form, groups, out_bar), argnums=range(5))
    expected = jax.jit(every(kernels.conv_field_plain))(y, *params)
    # observed 4e-14
    assert_close(jax.jit(every(fast))(y, *params), expected, 1e-13)


def test_third_derivatives_and_forward_over_reverse_match_plain(x64):
    y, out_bar, params, groups = field_case((2, 3, 3, 2, 1), "float64")
    directions = draw(3, "float64", *[x.shape for x in (y, *params)])

    def curvature(form):
        slope = slope_of(form, groups, out_bar)
        along = lambda *x: jax.jvp(slope, x, directions)[1]
        return jax.jit(jax.grad(along, argnums=range(5)))(y, *params)

    # observed 2e-15
    assert_close(curvature(fast), curvature(kernels.conv_field_plain), 2e-14)


def test_gradient_of_a_gradient_takes_no_more_operations_than_plain():
    y, out_bar, params, groups = field_case(SIZES["usual"], "float32")

    def operations(form):
        program = jax.jit(jax.grad(slope_of(form, groups, out_bar), argnums=range(5)))
        cost = program.lower(y, *params).compile().cost_analysis()
        assert cost is not None
        return cost["flops"]

    # Observed 0.99, and 1.22 where JAX transposes the sums that are written out.
    assert operations(fast) < 1.1 * operations(kernels.conv_field_plain)


def test_wrong_groups_are_refused():
    _, _, params, _ = field_case((5, 4, 4, 2, 5), "float32")
    y = jnp.zeros((2, 5, 4, 4))
    for form in (fast, kernels.conv_field_plain):
        with pytest.raises(ValueError, match="5 channels .* in 2 groups"):
            form(y, *params, groups=2)
    images = jnp.zeros((2, 28, 28, 1))
    for form in (kernels.stem, kernels.stem_plain):
        with pytest.raises(ValueError, match="5 channels .* in 4 groups"):
            form(images, params[0][:, :1], *params[1:], groups=4)


def test_unknown_activation_is_refused():
    _, _, params, _ = field_case((5, 4, 4, 2, 5), "float32")
    y = jnp.zeros((2, 5, 4, 4))
    for form in (fast, kernels.conv_field_plain):
        with pytest.raises(ValueError, match="'gelu'; choose one of 'relu'"):
            form(y, *params, groups=5, activation="gelu")


@pytest.mark.parametrize("size", some_slow(FORM_SIZES, *USUAL_SIZES))
def test_written_out_convolution_matches_lax(size, dtype):
    # More outputs than inputs, so that the two cannot be confused.
    channels, height, width, batch, _ = SIZES[size]
    padded_shape = (channels, height + 2, (width + 2) * batch)
    padded, weight = draw(1, dtype, padded_shape, (channels + 1, channels, 3, 3))
    actual = jax.jit(partial(conv.convolve_written_out, batch=batch))(padded, weight)
    expected = conv.convolve_general(padded, weight, batch=batch)
    assert_close(actual, expected, RTOL[dtype])


@pytest.mark.parametrize("size", some_slow(FORM_SIZES, *USUAL_SIZES))
def test_weight_cotangent_forms_match_autodiff(size, dtype):
    channels, height, width, batch, _ = SIZES[size]
    x, z_bar = draw(
        2,
        dtype,
        (channels, height, width * batch),
        (channels + 1, height, width * batch),
    )
    padded, padded_bar = conv.pad_rows(x, batch), conv.pad_rows(z_bar, batch)
    weight = jnp.zeros((channels + 1, channels, 3, 3), dtype)
    _, vjp = jax.vjp(lambda w: conv.convolve_general(padded, w, batch=batch), weight)
    (expected,) = vjp(z_bar)
    for form in (conv.weight_cotangent_product, conv.weight_cotangent_general):
        actual = jax.jit(partial(form, batch=batch))(padded_bar, padded)
        assert_close(actual, expected, RTOL[dtype])


def test_weight_cotangent_in_uneven_bands_matches_lax(dtype, monkeypatch):
    # 11 rows in 8 bands of one or two; only states of megabytes have so many.
    monkeypatch.setattr(conv, "_BYTES_PER_BAND", 1)
    height, width, batch = 11, 5, 3
    x, z_bar = draw(5, dtype, (2, height, width * batch), (3, height, width * batch))
    padded, padded_bar = conv.pad_rows(x, batch), conv.pad_rows(z_bar, batch)
    form = jax.jit(partial(conv.weight_cotangent_product, batch=batch))
    expected = conv.weight_cotangent_general(padded_bar, padded, batch=batch)
    assert_close(form(padded_bar, padded), expected, RTOL[dtype])


def stem_case(channels, batch, dtype):
    images, out_bar, weight, bias, scale, offset = draw(
        3,
        dtype,
        (batch, 28, 28, 1),
        (batch, channels, 26, 26),
        (channels, 1, 3, 3),
        *3 * [(channels,)],
    )
    return (images, 0.3 * weight, bias, 1 + 0.3 * scale, 0.3 * offset), out_bar


@pytest.mark.parametrize(
    ("channels", "batch", "groups"),
    [
        (6, 16, 6),
        (6, 3, 2),
        pytest.param(1, 1, 1, marks=pytest.mark.slow),
        pytest.param(16, 2, 16, marks=pytest.mark.slow),
    ],
)
def test_stem_and_its_gradients_match_plain(channels, batch, groups, dtype):
    arrays, out_bar = stem_case(channels, batch, dtype)

    @partial(jax.jit, static_argnums=0)
    def value_and_cotangents(form, arrays):
        out, vjp = jax.vjp(lambda *a: form(*a, groups=groups), *arrays)
        images_bar, weight_bar, bias_bar, *rest = vjp(out_bar)
        if groups == channels:
            bias_bar = jnp.zeros_like(bias_bar)  # rounding, in the twin
        return out, images_bar, weight_bar, bias_bar, *rest

    def fast_stem(*arrays, **settings):
        return batch_first(kernels.stem(*arrays, **settings))

    # Given, not closed over: JAX 0.6 folds a convolution of constants to a wrong one.
    actual = value_and_cotangents(fast_stem, arrays)
    expected = value_and_cotangents(kernels.stem_plain, arrays)
    assert_close(actual, expected, RTOL[dtype])


@pytest.mark.parametrize(
    ("channels", "height", "width", "batch"),
    [(6, 26, 26, 16), (2, 5, 7, 3), (1, 2, 2, 1)],
)
def test_pool_linear_and_its_gradients_match_plain(
    channels, height, width, batch, dtype
):
    features = channels * (height // 2) * (width // 2)
    y, weight, bias, out_bar = draw(
        4, dtype, (batch, channels, height, width), (10, features), (10,), (batch, 10)
    )

    @partial(jax.jit, static_argnums=0)
    def value_and_cotangents(form):
        out, vjp = jax.vjp(form, y, weight, bias)
        return out, vjp(out_bar)

    actual = value_and_cotangents(lambda y, *a: kernels.pool_linear(batch_last(y), *a))
    assert_close(actual, value_and_cotangents(kernels.pool_linear_plain), RTOL[dtype])


def test_batch_last_is_for_few_channels_on_a_cpu(monkeypatch):
    few = kernels.FEW_CHANNELS
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert kernels.prefers_batch_last(few) and not kernels.prefers_batch_last(few + 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not kernels.prefers_batch_last(few)


@pytest.mark.parametrize(("platform", "on_cpu"), [("cpu", True), ("cuda", False)])
def test_uninlined_and_written_out_forms_are_for_the_cpu_alone(
    monkeypatch, platform, on_cpu
):
    # The first is chosen while tracing, by what is the default, the second in lowering.
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    y, _, params, groups = field_case(SIZES["odd"], "float32")
    step = jax.jit(jax.grad(lambda y: jnp.sum(fast(y, *params, groups=groups) ** 2)))
    program = step.trace(y).lower(lowering_platforms=(platform,)).as_text()
    assert ('inlineable = "false"' in program) == on_cpu
    assert ("stablehlo.convolution" in program) == (not on_cpu)


def test_units_keep_xla_from_repeating_the_convolution():
    # Fused into its readers, the products' number in the compiled program multiplies.
    y, _, params, groups = field_case((2, 5, 6, 2, 2), "float32")
    compiled = compiled_for_users(lambda y: fast(y, *params, groups=groups), y)
    kernels_in_sum = 2 * 9
    program = compiled.as_text()
    assert program is not None
    products = program.count(" multiply(")
    # 18 in the convolution, 2 in each of two normalisations and a few in the sums.
    assert kernels_in_sum < products < 2 * kernels_in_sum + 30


def test_unit_traces_once_for_each_shape():
    count = 0

    @noinline("power")
    def raised(x, *, power):
        nonlocal count
        count += 1
        return x**power

    step = jax.jit(lambda x: raised(raised(x, power=2), power=2))
    assert step(jnp.asarray(3.0)) == 81
    first = count
    assert jax.jit(lambda x: raised(x, power=2) + 1)(jnp.asarray(3.0)) == 10
    assert count == first


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (64, 32)])
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_norm_conv_is_its_plain_parts(channels, groups, activation, getkey):
    y = jax.random.normal(getkey(), (4, channels, 6, 5))
    weight = jax.random.normal(getkey(), (channels, channels, 3, 3)) / channels
    affine: Any = [jax.random.normal(getkey(), (channels,)) for _ in range(4)]
    activate, _ = kernels.activation_pair(activation)

    def plain(y, weight, affine: Any):
        x = activate(kernels.group_norm_plain(y, affine[0], affine[1], groups))
        z = kernels.conv_plain(x, weight, None, "SAME")
        return kernels.group_norm_plain(z, affine[2], affine[3], groups)

    def fast(y, weight, affine: Any):
        rows = batch_last(y).reshape(channels, 6, -1)
        settings = dict(batch=4, groups=groups)
        z = kernels.norm_conv(
            rows, weight, *affine[:2], activation=activation, **settings
        )
        out = kernels.group_norm(z, *affine[2:], **settings)
        return batch_first(out.reshape(channels, 6, 5, 4))

    cotangent = jax.random.normal(getkey(), y.shape)

    def pulled_back(f):
        value, pull_back = jax.vjp(f, y, weight, affine)
        return jax.tree.leaves((value, pull_back(cotangent)))

    found, expected = quick_jit(lambda: (pulled_back(fast), pulled_back(plain)))()
    for one, other in zip(found, expected, strict=True):
        scale = np.max(np.abs(other))
        # Observed 1e-6: rounding.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(26, 26), (13, 13), (6, 9)])
def test_strided_conv_is_every_second_pixel_of_a_convolution(size, getkey):
    x = jax.random.normal(getkey(), (3, 2, *size))
    weight = jax.random.normal(getkey(), (5, 2, 4, 4))
    expected = kernels.conv_plain(x, weight, None, 1, stride=2)
    found = batch_first(kernels.strided_conv(batch_last(x), weight))
    # Observed 4e-6: rounding.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
