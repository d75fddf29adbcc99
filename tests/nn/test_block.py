"""Tests of the ODE block."""

import inspect
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import each_adjoint, quick_jit, unchecked_types
from jaxtyping import Array

from jaxode import odeint, value_and_grad_with_stats
from jaxode.nn import ConvField, ODEBlock
from jaxode.nn.solve_form import SolveForm


FINE: dict[str, Any] = dict(rtol=1e-9, atol=1e-9)


class Decay(eqx.Module):
    """dy/dt = -rate * y for every leaf, so that y(t) = y(0) exp(-rate t)."""

    rate: Array

    def __call__(self, t, y, args):
        return jax.tree.map(lambda y: -self.rate * y, y)


class Mixing(eqx.Module):
    """dy/dt = tanh(y W): smooth, cheap to compile, and one row does not see another."""

    weight: Array

    def __call__(self, t, y, args):
        return jnp.tanh(y @ self.weight)


class Counting(eqx.Module):
    """Counts on the host how often a field is really called."""

    field: eqx.Module
    calls: list = eqx.field(static=True)

    def __call__(self, t, y, args):
        jax.debug.callback(lambda: self.calls.append(None))
        return self.field(t, y, args)  # pyright: ignore[reportCallIssue]


def two_speeds(t, y, args):
    """One easy and one fast sample in a batch: each row decays at its own rate."""
    rate, x = y
    return jnp.zeros_like(rate), -rate * x


def speeds_state(*rates):
    rates = jnp.asarray(rates)
    return rates, jnp.ones_like(rates)


@pytest.mark.parametrize("t1", [2.0, -0.5])
def test_pytree_state_decays_as_the_exponential(x64, t1):
    y0 = {"a": jnp.array([1.0, -2.0]), "b": (jnp.array(3.0),)}
    block = ODEBlock(Decay(jnp.array(0.7)), t1=t1, **FINE)
    y1 = block(y0)
    # Observed 9e-10.
    for y, start in zip(jax.tree.leaves(y1), jax.tree.leaves(y0), strict=True):
        np.testing.assert_allclose(y, start * np.exp(-0.7 * t1), rtol=1e-8)


def test_field_may_be_a_function_that_takes_args(x64):
    block = ODEBlock(lambda t, y, args: args["rate"] * y * jnp.cos(t), **FINE)
    y1 = block(jnp.array([1.0, 2.0]), {"rate": jnp.array(0.5)})
    # Observed 7e-12.
    expected = np.exp(0.5 * np.sin(1.0)) * np.array([1.0, 2.0])
    np.testing.assert_allclose(y1, expected, rtol=1e-8)


@each_adjoint("backsolve", "discrete")
def test_gradient_reaches_the_arrays_of_a_users_field(x64, adjoint):
    block = ODEBlock(Decay(jnp.array(0.7)), adjoint=adjoint, max_steps=128, **FINE)
    grad = eqx.filter_grad(lambda block: block(jnp.array([2.0]))[0])(block)
    # Observed 3e-9 (6e-10 under backsolve).
    np.testing.assert_allclose(grad.field.rate, -2 * np.exp(-0.7), rtol=1e-7)


def test_block_is_odeint_from_zero_to_t1(x64, getkey):
    field = ConvField(2, key=getkey())
    y0 = jax.random.normal(getkey(), (2, 2, 8, 8))
    block = ODEBlock(field, t1=0.5, rtol=1e-4, atol=1e-4)
    ours = block.solve(y0)
    ts = jnp.array([0.0, 0.5])
    solution = odeint(field, y0, ts, rtol=1e-4, atol=1e-4)
    # Observed 0.
    np.testing.assert_allclose(ours.ys, solution.ys, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(block(y0), ours.ys[-1])
    np.testing.assert_array_equal(ours.ts, solution.ts)
    np.testing.assert_array_equal(ours.stats.nfe, solution.stats.nfe)
    assert ours.result == solution.result


def test_diffraxs_own_stage_loop_gives_the_same_solution(x64, getkey):
    y0 = jax.random.normal(getkey(), (3, 4))
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, rtol=1e-4, atol=1e-4)
    expected = block.with_solve(unroll=False)(y0)
    # Observed 2e-16.
    np.testing.assert_allclose(block(y0), expected, rtol=0, atol=1e-12)


def test_sample_depends_on_its_batch_mates_in_one_ode():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1)
    _, alone = block(speeds_state(2.0))
    _, in_company = block(speeds_state(2.0, 8.0))
    # Alone it takes two steps to 0.1396, in company four to 0.1354 (and exp(-2) is
    # 0.1353).
    assert abs(float(alone[0] - in_company[0])) > 1e-3


def test_sample_does_not_depend_on_its_batch_mates_per_sample():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1, per_sample=True)
    _, alone = block(speeds_state(2.0))
    _, in_company = block(speeds_state(2.0, 8.0))
    # Rounding apart, which differs with the size of a batch: observed 6e-7.
    np.testing.assert_allclose(alone[0], in_company[0], rtol=5e-6)


@pytest.mark.slow
def test_statistics_are_each_samples_own_per_sample():
    block = ODEBlock(two_speeds, rtol=1e-3, atol=1e-3, per_sample=True)
    rates = (0.5, 30.0, 5.0)
    stats = block.solve(speeds_state(*rates)).stats
    alone = [block.solve(speeds_state(rate)).stats.num_steps[0] for rate in rates]
    assert len({int(n) for n in alone}) == 3
    np.testing.assert_array_equal(stats.num_steps, alone)


def test_every_statistic_has_a_batch_axis_per_sample():
    block = ODEBlock(two_speeds, per_sample=True)
    solution = block.solve(speeds_state(0.5, 30.0, 5.0))
    assert {leaf.shape for leaf in jax.tree.leaves(solution.stats)} == {(3,)}
    assert (solution.result == diffrax.RESULTS.successful).shape == (3,)
    # The times are those of all, and come first in the state as in any solution.
    assert solution.ts.shape == (2,)
    assert {leaf.shape for leaf in jax.tree.leaves(solution.ys)} == {(2, 3)}


@pytest.mark.slow
@each_adjoint("backsolve")
def test_gradient_per_sample_is_the_sum_of_single_samples(x64, getkey, adjoint):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, rtol=1e-4, atol=1e-4, adjoint=adjoint)
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    @quick_jit
    @jax.grad
    def gradient(block, y0, cotangent):
        return jnp.sum(block(y0) * cotangent)

    together = gradient(block.with_solve(per_sample=True), y0, cotangent)
    singles = [gradient(block, y0[i : i + 1], cotangent[i : i + 1]) for i in range(3)]
    expected = jax.tree.map(lambda *grads: sum(grads), *singles)
    # Observed 8e-16.
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unroll", [True, False])
def test_nfe_is_what_a_counting_field_counts(getkey, unroll):
    calls: list[None] = []
    field = Counting(Mixing(jax.random.normal(getkey(), (4, 4))), calls)
    block = ODEBlock(field, rtol=1e-3, atol=1e-3, unroll=unroll)
    stats = block.solve(jax.random.normal(getkey(), (3, 4))).stats
    jax.effects_barrier()
    assert len(calls) > 7
    np.testing.assert_array_equal(stats.nfe, len(calls))


def test_stage_loop_evaluates_the_start_again_after_a_rejected_first_step():
    # The only visible difference between the two, so this shows which of them ran.
    block = ODEBlock(two_speeds, rtol=1e-3, atol=1e-3, dt0=1.0)
    unrolled = block.solve(speeds_state(30.0)).stats
    loop = block.with_solve(unroll=False).solve(speeds_state(30.0)).stats
    np.testing.assert_array_equal(loop.num_steps, unrolled.num_steps)
    assert unrolled.nfe is not None and loop.nfe is not None
    assert int(loop.nfe) > int(unrolled.nfe) == 1 + 6 * int(unrolled.num_steps)


def test_backward_statistics_are_those_of_odeint(getkey):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, adjoint="backsolve")
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    def loss(y0):
        return jnp.sum(block(y0) * cotangent)

    def direct_loss(y0):
        ts = jnp.array([0.0, 1.0])
        solution = odeint(block.field, y0, ts, adjoint="backsolve")
        return jnp.sum(solution.ys[-1] * cotangent)

    counts, expected = (
        quick_jit(value_and_grad_with_stats(f))(y0)[2] for f in (loss, direct_loss)
    )
    assert int(counts.nfe) == int(expected.nfe) > 7


def test_backward_statistics_per_sample_are_sums_over_the_batch(getkey):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, adjoint="backsolve", rtol=1e-2, atol=1e-2)
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    def loss(block, y0, cotangent):
        return jnp.sum(block(y0) * cotangent)

    gradient = quick_jit(value_and_grad_with_stats(loss))
    _, _, stats = gradient(block.with_solve(per_sample=True), y0, cotangent)
    singles = [
        gradient(block, y0[i : i + 1], cotangent[i : i + 1])[2].nfe for i in range(3)
    ]
    assert int(stats.nfe) == int(sum(singles))


def test_failed_solve_reports_and_stays_finite():
    block = ODEBlock(two_speeds, rtol=1e-5, atol=1e-5, max_steps=3)
    solution = eqx.filter_jit(block.solve)(speeds_state(30.0))
    assert not bool(solution.stats.success)
    assert all(bool(jnp.isfinite(y).all()) for y in jax.tree.leaves(solution.ys))


def test_only_the_failing_sample_fails_per_sample():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1, max_steps=4, per_sample=True)
    stats = block.solve(speeds_state(0.5, 300.0)).stats
    np.testing.assert_array_equal(stats.success, [True, False])


def test_with_solve_shares_the_arrays(getkey):
    block = ODEBlock(ConvField(2, key=getkey()))
    other = block.with_solve(solver=diffrax.Tsit5(), rtol=1e-5, per_sample=True)
    assert other.field is block.field
    changed = (other.settings.solver, other.settings.rtol, other.per_sample)
    assert changed == (diffrax.Tsit5(), 1e-5, True)
    assert (other.settings.atol, block.settings.rtol) == (block.settings.atol, 1e-3)


def test_only_the_fields_arrays_are_leaves(getkey):
    field = ConvField(2, key=getkey())
    block = ODEBlock(field, adjoint="backsolve", rtol=0.1, atol=0.1, dt0=0.1)
    expected = jax.tree.leaves(field)
    assert all(a is b for a, b in zip(jax.tree.leaves(block), expected, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(t1=0.0), "t1=0.0: .*finite and not zero; pass t1=1.0"),
        (dict(t1=float("inf")), "t1=inf: .*finite"),
        (dict(adjoint="bakcsolve"), "'bakcsolve'; choose one of 'discrete', 'back"),
        (dict(rtol=0.0), "rtol must be positive; got 0.0"),
        (dict(max_steps=0), "max_steps must be a positive integer; got 0"),
        (dict(solver=diffrax.Euler()), "Euler has no error estimate"),
    ],
)
def test_bad_settings_are_refused_before_any_call(settings, message):
    with unchecked_types(), pytest.raises(ValueError, match=message):
        ODEBlock(two_speeds, **settings)


def test_unknown_setting_is_refused_with_the_list():
    message = "setting 'rtoll'; choose from t1, learn_t1, per_sample, solver, .*rtol"
    with pytest.raises(ValueError, match=message):
        ODEBlock(two_speeds).with_solve(rtoll=1e-3)
    with pytest.raises(ValueError, match=message):
        ODEBlock(two_speeds, rtoll=1e-3)


def test_block_and_network_take_every_setting_of_odeint():
    # A controller is one that the block once had no argument for.
    controller = diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmax=0.125)
    block = ODEBlock(two_speeds, controller=controller)
    assert int(block.solve(speeds_state(0.5)).stats.num_accepted_steps) >= 8
    names = inspect.signature(odeint).parameters.keys()
    # What is solved and what is asked besides the state are no settings.
    for name in names - {"field", "y0", "ts", "args", "cost", "dense"}:
        value = getattr(block.settings, name)
        assert getattr(block.with_solve(**{name: value}).settings, name) == value


def test_block_is_a_layer_among_others(getkey):
    key, linear_key = jax.random.split(getkey())
    field = Mixing(jax.random.normal(key, (4, 4)))
    linear = eqx.nn.Linear(4, 2, key=linear_key)
    block = ODEBlock(field, rtol=1e-3, atol=1e-3)
    y0 = jax.random.normal(getkey(), (4,))
    layers = eqx.nn.Sequential([block, linear])
    expected = linear(block(y0))
    np.testing.assert_allclose(layers(y0), expected, rtol=1e-6)
    np.testing.assert_allclose(layers(y0, key=getkey()), expected, rtol=1e-6)


class Scaled(eqx.Module):
    """A field that wants its state ten times as large, and says what it was asked."""

    rate: Array
    shapes: list = eqx.field(static=True)

    def __call__(self, t, y, args):
        return -self.rate * y

    def solve_form(self, y0):
        self.shapes.append(y0.shape)
        return SolveForm(
            lambda t, y, args: -self.rate * y - 10, lambda y: 10 * y, lambda y: y / 10
        )


def test_field_of_ones_own_says_how_it_is_integrated():
    # In that form, dy/dt = -rate y - 1: the constant shows which of the two it was.
    field = Scaled(jnp.array(0.5), [])
    y1 = ODEBlock(field, rtol=1e-5, atol=1e-5)(jnp.array([1.0, 2.0]))
    expected = (np.array([1.0, 2.0]) + 2) * np.exp(-0.5) - 2
    np.testing.assert_allclose(y1, expected, rtol=1e-4)
    assert set(field.shapes) == {(2,)}


def test_field_is_no_setting():
    with pytest.raises(ValueError, match="Unknown setting 'field'"):
        ODEBlock(two_speeds).with_solve(field=two_speeds)


@pytest.mark.parametrize(
    "y0", [(jnp.zeros(3), jnp.zeros(2)), (jnp.zeros(3), jnp.zeros(()))]
)
def test_per_sample_needs_one_batch_axis(y0):
    with pytest.raises(ValueError, match="first axis .*got shapes .*per_sample=False"):
        ODEBlock(two_speeds, per_sample=True)(y0)
