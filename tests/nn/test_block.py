"""Tests of the ODE block."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, unchecked_types
from jaxtyping import Array

from jaxode import BackwardStats, odeint, value_and_grad_with_stats
from jaxode.nn import ConvField, ODEBlock


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
    y1, _ = block(y0)
    # Observed 9e-10.
    for y, start in zip(jax.tree.leaves(y1), jax.tree.leaves(y0), strict=True):
        np.testing.assert_allclose(y, start * np.exp(-0.7 * t1), rtol=1e-8)


def test_field_may_be_a_function_that_takes_args(x64):
    block = ODEBlock(lambda t, y, args: args["rate"] * y * jnp.cos(t), **FINE)
    y1, _ = block(jnp.array([1.0, 2.0]), {"rate": jnp.array(0.5)})
    # Observed 7e-12.
    expected = np.exp(0.5 * np.sin(1.0)) * np.array([1.0, 2.0])
    np.testing.assert_allclose(y1, expected, rtol=1e-8)


@pytest.mark.parametrize("adjoint", ["backsolve", "checkpoint", "direct"])
def test_gradient_reaches_the_arrays_of_a_users_field(x64, adjoint):
    block = ODEBlock(Decay(jnp.array(0.7)), adjoint=adjoint, max_steps=128, **FINE)
    grad = eqx.filter_grad(lambda block: block(jnp.array([2.0]))[0][0])(block)
    # Observed 3e-9 (6e-10 under backsolve).
    np.testing.assert_allclose(grad.field.rate, -2 * np.exp(-0.7), rtol=1e-7)


def test_block_is_odeint_from_zero_to_t1(x64, getkey):
    field = ConvField(2, key=getkey())
    y0 = jax.random.normal(getkey(), (2, 2, 8, 8))
    y1, stats = ODEBlock(field, t1=0.5, rtol=1e-4, atol=1e-4)(y0)
    ts = jnp.array([0.0, 0.5])
    solution = odeint(field, y0, ts, rtol=1e-4, atol=1e-4)
    # Observed 0.
    np.testing.assert_allclose(y1, solution.ys[-1], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(stats.nfe, solution.stats.nfe)


def test_diffraxs_own_stage_loop_gives_the_same_solution(x64, getkey):
    y0 = jax.random.normal(getkey(), (3, 4))
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, rtol=1e-4, atol=1e-4)
    expected, _ = block.with_solve(unroll=False)(y0)
    # Observed 2e-16.
    np.testing.assert_allclose(block(y0)[0], expected, rtol=0, atol=1e-12)


def test_sample_depends_on_its_batch_mates_in_one_ode():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1)
    (_, alone), _ = block(speeds_state(2.0))
    (_, in_company), _ = block(speeds_state(2.0, 8.0))
    # Alone it takes two steps to 0.1396, in company four to 0.1354 (and exp(-2) is
    # 0.1353).
    assert abs(float(alone[0] - in_company[0])) > 1e-3


def test_sample_does_not_depend_on_its_batch_mates_per_sample():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1, per_sample=True)
    (_, alone), _ = block(speeds_state(2.0))
    (_, in_company), _ = block(speeds_state(2.0, 8.0))
    assert float(alone[0]) == float(in_company[0])


def test_statistics_are_each_samples_own_per_sample():
    block = ODEBlock(two_speeds, rtol=1e-3, atol=1e-3, per_sample=True)
    _, stats = block(speeds_state(0.5, 30.0, 5.0))
    alone = [block(speeds_state(rate))[1].num_steps[0] for rate in (0.5, 30.0, 5.0)]
    assert len({int(n) for n in alone}) == 3
    np.testing.assert_array_equal(stats.num_steps, alone)


def test_every_statistic_has_a_batch_axis_per_sample():
    block = ODEBlock(two_speeds, per_sample=True)
    _, stats = block(speeds_state(0.5, 30.0, 5.0))
    assert {leaf.shape for leaf in jax.tree.leaves(stats)} == {(3,)}


@pytest.mark.parametrize("adjoint", ["backsolve", "checkpoint"])
def test_gradient_per_sample_is_the_sum_of_single_samples(x64, getkey, adjoint):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, rtol=1e-4, atol=1e-4, adjoint=adjoint)
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    @quick_jit
    @jax.grad
    def gradient(block, y0, cotangent):
        return jnp.sum(block(y0)[0] * cotangent)

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
    _, stats = block(jax.random.normal(getkey(), (3, 4)))
    jax.effects_barrier()
    assert len(calls) > 7
    np.testing.assert_array_equal(stats.nfe, len(calls))


def test_stage_loop_evaluates_the_start_again_after_a_rejected_first_step():
    # The only visible difference between the two, so this shows which of them ran.
    block = ODEBlock(two_speeds, rtol=1e-3, atol=1e-3, dt0=1.0)
    _, straight = block(speeds_state(30.0))
    _, loop = block.with_solve(unroll=False)(speeds_state(30.0))
    np.testing.assert_array_equal(loop.num_steps, straight.num_steps)
    assert straight.nfe is not None and loop.nfe is not None
    assert int(loop.nfe) > int(straight.nfe) == 1 + 6 * int(straight.num_steps)


def test_probe_receives_the_calls_of_the_backward_solve(getkey):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, adjoint="backsolve")
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    def loss(probe):
        return jnp.sum(block(y0, probe=probe)[0] * cotangent)

    def direct_loss(probe):
        ts = jnp.array([0.0, 1.0])
        solution = odeint(block.field, y0, ts, adjoint="backsolve", probe=probe)
        return jnp.sum(solution.ys[-1] * cotangent)

    stats = jax.grad(loss)(SolveCounts.zeros())
    assert int(stats.nfe) == int(jax.grad(direct_loss)(SolveCounts.zeros()).nfe) > 7


def test_backward_statistics_per_sample_are_sums_over_the_batch(getkey):
    field = Mixing(jax.random.normal(getkey(), (4, 4)))
    block = ODEBlock(field, adjoint="backsolve", rtol=1e-2, atol=1e-2)
    y0, cotangent = (jax.random.normal(getkey(), (3, 4)) for _ in range(2))

    def loss(block, y0, cotangent):
        return jnp.sum(block(y0)[0] * cotangent)

    gradient = quick_jit(value_and_grad_with_stats(loss))
    _, _, stats = gradient(block.with_solve(per_sample=True), y0, cotangent)
    singles = [
        gradient(block, y0[i : i + 1], cotangent[i : i + 1])[2].nfe for i in range(3)
    ]
    assert int(stats.nfe) == int(sum(singles))


def test_failed_solve_reports_and_stays_finite():
    block = ODEBlock(two_speeds, rtol=1e-5, atol=1e-5, max_steps=3)
    (_, x), stats = eqx.filter_jit(block)(speeds_state(30.0))
    assert not bool(stats.success)
    assert bool(jnp.isfinite(x).all())


def test_only_the_failing_sample_fails_per_sample():
    block = ODEBlock(two_speeds, rtol=0.1, atol=0.1, max_steps=4, per_sample=True)
    _, stats = block(speeds_state(0.5, 300.0))
    np.testing.assert_array_equal(stats.success, [True, False])


def test_with_solve_shares_the_arrays(getkey):
    block = ODEBlock(ConvField(2, key=getkey()))
    other = block.with_solve(solver=diffrax.Tsit5(), rtol=1e-5, per_sample=True)
    assert other.field is block.field
    assert (other.solver, other.rtol, other.per_sample) == (
        diffrax.Tsit5(),
        1e-5,
        True,
    )
    assert (other.atol, block.rtol) == (block.atol, 1e-3)


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
        (dict(adjoint="bakcsolve"), "'bakcsolve'; choose one of 'backsolve'"),
        (dict(rtol=0.0), "rtol must be positive; got 0.0"),
        (dict(max_steps=0), "max_steps must be a positive integer; got 0"),
        (dict(solver=diffrax.Euler()), "Euler has no error estimate"),
    ],
)
def test_bad_settings_are_refused_before_any_call(settings, message):
    with unchecked_types(), pytest.raises(ValueError, match=message):
        ODEBlock(two_speeds, **settings)


def test_unknown_setting_is_refused_with_the_list():
    with pytest.raises(ValueError, match="setting 'rtoll'; choose from solver, .*rtol"):
        ODEBlock(two_speeds).with_solve(rtoll=1e-3)


def test_field_is_no_setting():
    with pytest.raises(ValueError, match="Unknown setting 'field'"):
        ODEBlock(two_speeds).with_solve(field=two_speeds)


@pytest.mark.parametrize(
    "y0", [(jnp.zeros(3), jnp.zeros(2)), (jnp.zeros(3), jnp.zeros(()))]
)
def test_per_sample_needs_one_batch_axis(y0):
    with pytest.raises(ValueError, match="first axis .*got shapes .*per_sample=False"):
        ODEBlock(two_speeds, per_sample=True)(y0)
