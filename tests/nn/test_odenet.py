"""Tests of the classifiers."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from jaxode.nn import ConvField, ODENet, ResidualNet
from jaxode.nn.layers import prepare_images


def draw_images(batch=3, seed=0):
    """Grey levels of no meaning, uint8 (batch, 28, 28, 1)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (batch, 28, 28, 1)).astype(np.uint8)


def parameter_count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(model))


@quick_jit
def run(model, images):
    return model.with_stats(images)


@quick_jit
def value_and_gradients(model, images):
    """Logits and the gradient of a loss that weighs each of them differently."""

    def loss(model):
        logits = model(images)
        return jnp.sum(jnp.sin(jnp.arange(1.0, 11.0))[None] * logits**2), logits

    grads, logits = jax.grad(loss, has_aux=True)(model)
    return logits, jax.tree.leaves(grads)


def relative_error(leaves, expected):
    """Largest error of any leaf over its largest entry.

    Where each channel is normalised on its own, biases of convolutions have no
    gradient; one hundredth of the largest gradient is the least size taken.
    """
    largest = max(float(jnp.max(jnp.abs(e))) for e in expected)
    return max(
        float(jnp.max(jnp.abs(x - e)) / jnp.maximum(jnp.max(jnp.abs(e)), largest / 100))
        for x, e in zip(leaves, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("channels", "count"), [(6, 10_564), (2, 3_456), (64, 145_994)]
)
def test_network_has_the_posts_number_of_parameters(getkey, channels, count):
    # Convolution 10 C, its norm 2 C; field 9 C^2 + C and norm 2 C; head 1,690 C + 10.
    assert parameter_count(ODENet(channels, key=getkey())) == count


def test_only_arrays_are_leaves(getkey):
    leaves = jax.tree.leaves(ODENet(key=getkey(), adjoint="backsolve", dt0=0.1))
    assert len(leaves) == 10
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


def test_head_starts_uniform_within_one_over_root_fan_in(getkey):
    head = ODENet(key=getkey()).head
    bound = 1014**-0.5
    assert float(jnp.max(jnp.abs(head.weight))) <= bound
    # 10,140 draws: the deviation of a uniform is known to 0.5 %.
    np.testing.assert_allclose(np.std(head.weight), bound / 3**0.5, rtol=0.02)
    assert 0 < float(jnp.max(jnp.abs(head.bias))) <= bound


def test_uint8_and_normalised_floats_give_the_same_logits(getkey):
    model = ODENet(2, key=getkey())
    images = draw_images()
    floats = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    # Observed 4e-7.
    np.testing.assert_allclose(
        run(model, images)[0], run(model, floats)[0], rtol=0, atol=1e-5
    )


def test_grey_levels_become_minus_one_to_one():
    # The logits would hardly notice another range: the stem normalises it away.
    levels = np.arange(256).astype(np.uint8)
    images = np.tile(levels, 49)[: 16 * 784].reshape(16, 28, 28, 1)
    expected = images.astype(np.float64) * (2 / 255) - 1
    # Rounding to single precision makes 6e-8.
    np.testing.assert_allclose(prepare_images(images), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_double_precision_images_give_single_precision_logits(x64, getkey):
    model = ODENet(2, key=getkey())
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    logits, stats = run(model, draw_images().astype(np.float64) / 127.5 - 1)
    assert logits.dtype == jnp.float32
    assert bool(stats.success)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((28, 28), r"pass images\[None, :, :, None\]"),
        ((28, 28, 1), r"pass images\[None\]"),
        ((5, 28, 28), r"pass images\[\.\.\., None\]"),
        ((5, 32, 32, 1), r"takes \(batch, 28, 28, 1\)"),
        ((5, 1, 28, 28), r"takes \(batch, 28, 28, 1\)"),
        ((0, 28, 28, 1), "a batch of none; pass at least one"),
    ],
)
def test_images_of_another_shape_are_refused(getkey, shape, hint):
    with pytest.raises(ValueError, match=r"images have shape \(.*" + hint):
        ODENet(2, key=getkey())(np.zeros(shape, np.uint8))


def test_images_of_another_kind_are_refused(getkey):
    with pytest.raises(TypeError, match="dtype int32; pass grey levels as uint8"):
        ODENet(2, key=getkey())(draw_images().astype(np.int32))


def test_channels_that_do_not_divide_are_refused(getkey):
    with pytest.raises(ValueError, match="channels=40 cannot be normalised"):
        ODENet(40, key=getkey())


@pytest.mark.slow
def test_plain_and_fast_model_agree(getkey):
    key = getkey()
    fast = value_and_gradients(ODENet(key=key, rtol=1e-2, atol=1e-2), draw_images())
    plain = value_and_gradients(
        ODENet(key=key, rtol=1e-2, atol=1e-2, plain=True), draw_images()
    )
    # Observed 6e-7.
    assert relative_error([fast[0]], [plain[0]]) < 1e-4
    # Observed 6e-6.
    assert relative_error(fast[1], plain[1]) < 1e-3


@pytest.mark.slow
def test_plain_and_fast_model_agree_in_double_precision(x64, getkey):
    key = getkey()
    # Two stages compile in a third of the time that seven take.
    settings: dict[str, Any] = dict(solver=diffrax.Heun(), rtol=1e-2, atol=1e-2)
    fast, plain = (
        value_and_gradients(ODENet(key=key, plain=plain, **settings), draw_images())
        for plain in (False, True)
    )
    # Observed 2e-15.
    assert relative_error([fast[0]], [plain[0]]) < 1e-12
    # Observed 4e-14.
    assert relative_error(fast[1], plain[1]) < 1e-12


@pytest.mark.parametrize("plain", [False, True])
def test_plain_is_plain_everywhere(getkey, plain):
    # Results are equal to rounding, so only the settings show it.
    net = ODENet(2, key=getkey(), plain=plain)
    assert isinstance(net.block.field, ConvField)
    assert net.block.field.plain is plain
    assert net.block.settings.unroll is not plain
    # The stem and the head are told when they are called.
    program = str(jax.make_jaxpr(net)(draw_images()))
    assert ("platform_index" in program) is not plain


@pytest.mark.slow
def test_wide_model_agrees_with_its_plain_twin(getkey):
    # Past the width up to which convolutions are written out.
    key = getkey()
    fast, plain = (ODENet(16, key=key, plain=plain) for plain in (False, True))
    # Observed 4e-7.
    np.testing.assert_allclose(
        run(fast, draw_images())[0], run(plain, draw_images())[0], rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_image_does_not_depend_on_its_batch_mates_per_sample(getkey):
    model = ODENet(2, key=getkey(), per_sample=True)
    images = draw_images(4)
    together, _ = run(model, images)
    alone, _ = run(model, images[2:3])
    # Observed 4e-7; 4e-5 where the batch is one ODE.
    np.testing.assert_allclose(together[2:3], alone, rtol=0, atol=3e-6)


def test_finer_tolerance_is_a_setting_of_a_trained_model(getkey):
    model = ODENet(2, key=getkey())
    finer = model.with_solve(rtol=1e-4, atol=1e-4, max_steps=256)
    _, coarse_stats = run(model, draw_images())
    _, fine_stats = run(finer, draw_images())
    assert int(fine_stats.nfe) > int(coarse_stats.nfe)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(finer), strict=True):
        assert a is b


def test_solver_is_a_setting_of_a_trained_model(getkey):
    model = ODENet(2, key=getkey())
    euler = model.with_solve(solver=diffrax.Euler(), rtol=None, atol=None, dt0=0.25)
    assert int(run(euler, draw_images())[1].nfe) == 4


def test_unknown_setting_is_refused_with_the_list(getkey):
    with pytest.raises(ValueError, match="Unknown setting 'channels'; choose from"):
        ODENet(2, key=getkey()).with_solve(channels=3)


def test_unfinished_solve_is_reported_and_not_raised(getkey):
    model = ODENet(2, key=getkey(), rtol=1e-6, atol=1e-6, max_steps=2)
    logits, stats = run(model, draw_images())
    assert not bool(stats.success)
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.slow
def test_tied_residual_blocks_are_eulers_method(x64, getkey):
    # The two posts' central remark, values and gradients alike.
    key = getkey()
    euler = ODENet(2, key=key, solver=diffrax.Euler(), rtol=None, atol=None, dt0=1 / 5)
    resnet = value_and_gradients(ResidualNet(2, key=key, num_blocks=5), draw_images())
    ode = value_and_gradients(euler, draw_images())
    # Observed 4e-16.
    assert relative_error([resnet[0]], [ode[0]]) < 1e-12
    # Observed 2e-15.
    assert relative_error(resnet[1], ode[1]) < 1e-12


def test_untied_blocks_with_equal_weights_are_tied_ones(x64, getkey):
    key = getkey()
    tied = ResidualNet(2, key=key, num_blocks=3, step=0.5)
    untied = ResidualNet(2, key=key, num_blocks=3, step=0.5, tied=False)
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), tied.field)
    untied = eqx.tree_at(lambda net: net.field, untied, copies)
    # Observed 0.
    np.testing.assert_allclose(
        run(untied, draw_images())[0], run(tied, draw_images())[0], rtol=0, atol=1e-12
    )


def test_untied_blocks_are_applied_in_order(x64, getkey):
    net = ResidualNet(2, key=getkey(), num_blocks=2, tied=False)
    y = net.stem(draw_images())
    for block in range(2):
        field = jax.tree.map(lambda leaf, block=block: leaf[block], net.field)
        assert field is not None
        y = y + field(0.0, y, None)
    # Observed 2e-15.
    np.testing.assert_allclose(
        run(net, draw_images())[0], net.head(y), rtol=0, atol=1e-12
    )


def test_untied_blocks_start_from_different_weights(getkey):
    field = ResidualNet(2, key=getkey(), num_blocks=2, tied=False).field
    assert isinstance(field, ConvField)
    assert not np.any(np.equal(*field.conv.weight))


@pytest.mark.parametrize("tied", [True, False])
def test_plain_and_fast_residual_network_agree(getkey, tied):
    key, images = getkey(), draw_images()
    fast, plain = (
        value_and_gradients(
            ResidualNet(6, key=key, num_blocks=2, tied=tied, plain=plain), images
        )
        for plain in (False, True)
    )
    # Observed 2e-5, in a bias whose gradient is zero.
    assert relative_error(fast[1], plain[1]) < 1e-3


@pytest.mark.parametrize(
    ("num_blocks", "tied", "count"),
    [(0, True, 10_564 - 342), (6, True, 10_564), (6, False, 10_564 + 5 * 342)],
)
def test_residual_network_has_one_field_for_each_untied_block(
    getkey, num_blocks, tied, count
):
    net = ResidualNet(key=getkey(), num_blocks=num_blocks, tied=tied)
    assert parameter_count(net) == count


def test_no_blocks_leave_stem_and_head(getkey):
    net = ResidualNet(2, key=getkey(), num_blocks=0)
    logits = net(draw_images())
    np.testing.assert_array_equal(logits, net.head(net.stem(draw_images())))


def test_residual_network_reports_its_blocks_as_steps(getkey):
    _, stats = run(ResidualNet(2, key=getkey(), num_blocks=4), draw_images())
    counts = (stats.nfe, stats.num_steps, stats.num_accepted_steps)
    assert [int(n) for n in counts] == [4, 4, 4]
    assert int(stats.num_rejected_steps) == 0
    assert bool(stats.success)


def test_negative_number_of_blocks_is_refused(getkey):
    with pytest.raises(ValueError, match="num_blocks=-1 must be at least 0"):
        ResidualNet(2, key=getkey(), num_blocks=-1)


@pytest.mark.parametrize("kind", [ODENet, ResidualNet])
def test_network_is_a_layer_that_returns_logits(getkey, kind):
    model, images = kind(2, key=getkey()), jnp.asarray(draw_images())
    logits, _ = model.with_stats(images)
    np.testing.assert_array_equal(model(images), logits)
    layers = eqx.nn.Sequential([model, eqx.nn.Lambda(jax.nn.log_softmax)])
    expected = jax.nn.log_softmax(logits)
    np.testing.assert_array_equal(layers(images, key=getkey()), expected)


def test_unknown_argument_is_refused_with_the_list(getkey):
    with pytest.raises(
        ValueError, match="'rtoll'; choose from t1, learn_t1, per_sample, solver"
    ):
        ODENet(2, key=getkey(), rtoll=0.1)
