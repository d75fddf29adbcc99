"""Options of networks with an ODE block, each against a closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import quick_jit

from jaxode.nn import ODEBlock, ODENet, PaperNet, Regularisers, TimeConvField
from jaxode.nn.kernels import conv_plain, group_norm_plain
from jaxode.training import train_step, TrainState


class Linear(eqx.Module):
    """dy/dt = rate * y."""

    rate: jax.Array

    def __call__(self, t, y, args):
        return self.rate * y


def images(count=2):
    generator = np.random.RandomState(0)
    return generator.randint(0, 256, (count, 28, 28, 1)).astype(np.uint8)


def with_field(field, getkey, **settings):
    """A network around a field of which the solution is known."""
    model = ODENet(2, key=getkey(), rtol=1e-5, atol=1e-6, **settings)
    block = ODEBlock(field, **model.block.settings.to_dict())
    return eqx.tree_at(lambda m: m.block, model, block)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_time_is_the_first_channel_of_the_convolution(getkey, plain):
    field = TimeConvField(3, key=getkey(), plain=plain, activation="tanh")
    field = eqx.tree_at(lambda f: f.norm.bias, field, jnp.array([0.2, -0.1, 0.3]))
    y = jax.random.normal(getkey(), (2, 3, 5, 4))
    cotangent = jax.random.normal(getkey(), y.shape)

    def as_defined(field, t, y):
        norm, conv = field.norm, field.conv
        x = jnp.tanh(group_norm_plain(y, norm.weight, norm.bias, 3))
        x = jnp.concatenate([jnp.full_like(x[:, :1], t), x], axis=1)
        z = conv_plain(x, conv.weight, conv.bias, "SAME")
        return group_norm_plain(z, norm.weight, norm.bias, 3)

    def weighed(compute, field, t, y):
        return jnp.sum(cotangent * compute(field, t, y))

    computed = lambda field, t, y: field(t, y, None)
    found, expected = (
        quick_jit(jax.value_and_grad(lambda *a, f=f: weighed(f, *a), (0, 1, 2)))(
            field, 0.7, y
        )
        for f in (computed, as_defined)
    )
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # Observed 3e-6: rounding.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5)


@pytest.mark.slow
def test_learned_end_time_has_its_gradient(getkey):
    block = ODEBlock(Linear(jnp.array(0.5)), t1=2.0, learn_t1=True, rtol=1e-6)
    assert block.with_solve(rtol=1e-5).end_time == 2.0
    assert block.with_solve(t1=3.0).end_time is None
    moved = eqx.tree_at(lambda b: b.end_time, block, jnp.array(1.5))
    assert moved.with_solve(rtol=1e-5).end_time == 1.5
    grads = quick_jit(jax.grad(lambda b: b(jnp.array([3.0]))[0]))(moved)
    # d/dt 3 exp(t / 2), and d/da 3 exp(a t).
    np.testing.assert_allclose(grads.end_time, 1.5 * np.exp(0.75), rtol=1e-4)
    np.testing.assert_allclose(grads.field.rate, 4.5 * np.exp(0.75), rtol=1e-4)


@pytest.mark.slow
def test_augmented_channels_start_from_zero(getkey):
    still = lambda t, y, args: jnp.zeros_like(y)
    model = with_field(still, getkey, augment=2)
    grads = eqx.filter_grad(lambda m: jnp.sum(m(images())))(model)
    weight_bar = np.asarray(grads.head.weight).reshape(10, 4, -1)
    assert np.abs(weight_bar[:, :2]).max() > 0
    assert np.abs(weight_bar[:, 2:]).max() == 0


@pytest.mark.slow
def test_running_costs_are_the_integrals_they_say(getkey):
    rate = 0.5
    weights = dict(kinetic=3.0, jacobian=7.0)
    field = Linear(jnp.array(rate))
    model = with_field(field, getkey, regularisers=Regularisers(**weights))
    y0 = np.asarray(model.stem(images()))
    _, penalty, _ = quick_jit(lambda key: model.train_with_stats(images(), key))(
        getkey()
    )
    # Mean square of rate * y0 * exp(rate t); the Jacobian is rate times the identity.
    kinetic = rate**2 * np.mean(y0**2) * (np.exp(2 * rate) - 1) / (2 * rate)
    np.testing.assert_allclose(penalty, 3 * kinetic + 7 * rate**2, rtol=1e-4)


@pytest.mark.slow
def test_end_time_is_random_in_training_and_not_in_scoring(getkey):
    one = lambda t, y, args: jnp.ones_like(y)
    model = with_field(one, getkey, regularisers=Regularisers(steer=0.5))
    # The mean over a state is where it started, plus the time that has passed.
    head = lambda y, plain: jnp.mean(y, axis=(1, 2, 3))[:, None]
    model = eqx.tree_at(lambda m: m.head, model, head)
    start = jnp.mean(model.stem(images()), axis=(1, 2, 3))
    train = quick_jit(lambda key: model.train_with_stats(images(), key)[0])
    ends = [float(train(getkey())[0, 0] - start[0]) for _ in range(24)]
    assert 0.5 <= min(ends) < 0.7 and 1.3 < max(ends) <= 1.5
    np.testing.assert_allclose(model(images())[0, 0] - start[0], 1.0, rtol=1e-5)


@pytest.mark.slow
def test_block_that_starts_from_zero_does_nothing(getkey):
    model = PaperNet(2, key=getkey(), zero_init=True)
    y0 = model.stem(images())
    np.testing.assert_array_equal(model.block(y0), y0)


def test_norm_that_is_used_twice_cannot_start_from_zero(getkey):
    with pytest.raises(ValueError, match="a ConvField has one for both. Take jax"):
        ODENet(2, key=getkey(), zero_init=True)


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"kinetic=-1.0 must be finite and not negat"):
        Regularisers(kinetic=-1.0)


class Penalised(eqx.Module):
    """Logits that nothing can change, and a penalty of w^2 in training."""

    w: jax.Array

    def with_stats(self, images):
        model = ODEBlock(Linear(jnp.array(0.0)), max_steps=64)
        return jnp.zeros((len(images), 10)), model.solve(jnp.zeros(1)).stats

    def train_with_stats(self, images, key):
        return *self.with_stats(images)[:1], self.w**2, self.with_stats(images)[1]


@pytest.mark.slow
def test_penalty_is_trained_on_and_is_not_in_the_loss_that_is_reported():
    optimiser = optax.sgd(0.1)
    state = TrainState.create(Penalised(jnp.array(3.0)), optimiser)
    batch = jnp.asarray(images()), jnp.zeros(2, jnp.int32)
    same, _ = train_step(state, *batch, optimiser=optimiser)
    assert same.model.w == 3.0
    key = jax.random.key(0)
    moved, metrics = train_step(state, *batch, optimiser=optimiser, key=key)
    np.testing.assert_allclose(moved.model.w, 3.0 - 0.1 * 6.0, rtol=1e-6)
    np.testing.assert_allclose(metrics.loss, np.log(10), rtol=1e-6)
