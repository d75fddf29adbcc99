"""The solution between the times asked for, and its gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    Counting,
    Counts,
    each_adjoint,
    quick_jit,
    relative_error,
    some_slow,
    weighted_sum,
)
from problems import exact_rotation, PROBLEMS, Rotation

import jaxode


ROTATION = PROBLEMS["rotation"]
FINE: dict[str, Any] = dict(rtol=1e-8, atol=1e-8, max_steps=64, throw=False)
# Both ends, a time asked for as well, and times between, in no order.
BETWEEN = np.array([0.9, 0.2, 1.17, 0.61, 1.3])


def evaluated(**settings):
    """The state at times within a solve, and what it takes, from the problem."""

    def run(problem, t):
        sol = jaxode.odeint(*problem, dense=True, **(FINE | settings))
        return sol.evaluate(t), sol

    return run


@each_adjoint("discrete", "backsolve")
@pytest.mark.parametrize("reverse", some_slow([False, True], False))
def test_values_and_gradients_by_everything(x64, adjoint, reverse):
    problem = ROTATION.arrays(jnp.float64, reverse)
    t = jnp.asarray(BETWEEN)

    def loss(inputs):
        between, sol = evaluated(adjoint=adjoint)(*inputs)
        return weighted_sum((between, sol.ys)), between

    def true_loss(inputs):
        (field, y0, ts, args), t = inputs
        start = lambda t: jnp.concatenate([ts[:1], t])
        between = exact_rotation(field, y0, start(t), args)[1:]
        return weighted_sum((between, exact_rotation(field, y0, ts, args))), between

    both = lambda f: quick_jit(jax.grad(f, has_aux=True))((problem, t))
    (actual, values), (expected, truth) = both(loss), both(true_loss)
    assert relative_error(values, truth) < 1e-6  # observed 3e-8
    assert relative_error(actual, expected) < 1e-6  # observed 8e-8


def test_accuracy_is_that_of_the_solver_and_not_of_an_interpolant(x64):
    """At a loose tolerance the steps are long, and what is between them shows."""
    field, y0 = Rotation(jnp.array(2.5)), ROTATION.arrays(jnp.float64)[1]
    times = jnp.linspace(0.0, 6.0, 41)
    ends = jnp.array([0.0, 6.0])

    @quick_jit
    def run():
        settings: dict[str, Any] = dict(rtol=1e-4, atol=1e-4)
        sol = jaxode.odeint(field, y0, ends, dense=True, max_steps=128, **settings)
        read = jaxode.odeint(field, y0, times, **settings).ys
        return sol.evaluate(times), read, sol.stats

    between, read, stats = run()
    truth = exact_rotation(field, y0, times, None)
    assert stats.num_steps < 40
    error = lambda ys: np.max(np.abs(ys - truth))
    # Observed 7e-4 at the ends of steps, which both have: the rest is in between.
    steps = np.max(np.abs(between[-1] - truth[-1]))
    assert error(between) < 1.05 * steps
    assert error(read) < 1.5 * steps


def test_calls_are_two_solves_and_a_step_for_each_time():
    counts = Counts()
    field, y0, ts, args = ROTATION.arrays(jnp.float32)
    settings: dict[str, Any] = dict(max_steps=32, throw=False)
    problem = (Counting(field, counts), y0, ts, args)
    plain = quick_jit(lambda p: jaxode.odeint(*p, **settings).stats)(problem)
    assert counts.read()[0] == plain.nfe
    dense = quick_jit(lambda p: jaxode.odeint(*p, dense=True, **settings))(problem)
    assert counts.read()[0] == dense.stats.nfe
    assert dense.stats.nfe == 2 * plain.nfe and dense.stats.num_steps == plain.num_steps
    quick_jit(lambda s: s.evaluate(jnp.float32(0.7)))(dense)
    assert counts.read()[0] == 7


def test_solution_of_a_batch_is_evaluated_inside_vmap(x64):
    rates, t = jnp.array([0.5, 3.0]), jnp.array([0.25, 0.75])

    def run(rate):
        field = lambda t, y, args: -rate * y
        settings: dict[str, Any] = FINE | dict(dense=True)
        return jaxode.odeint(field, jnp.ones(()), [0.0, 1.0], **settings)

    sols = quick_jit(jax.vmap(run))(rates)
    values = quick_jit(jax.vmap(lambda sol: sol.evaluate(t)))(sols)
    np.testing.assert_allclose(values, np.exp(-np.outer(rates, t)), rtol=1e-6)  # 1e-9


@pytest.mark.slow
def test_fixed_steps_costs_and_jumps_go_with_it(x64):
    field = lambda t, y, args: jnp.where(t > 0.5, 2.0, -1.0) + 0 * y
    shared: dict[str, Any] = dict(jumps=[0.5], cost=lambda t, y, a: y, dense=True)
    ways: list[dict[str, Any]] = [dict(rtol=1e-6), dict(rtol=None, dt0=0.2)]
    for steps in ways:
        sol = jaxode.odeint(
            field, jnp.zeros(()), [0.0, 1.0], max_steps=32, **shared, **steps
        )
        t = jnp.array([0.2, 0.5, 0.9])
        np.testing.assert_allclose(sol.evaluate(t), [-0.2, -0.5, 0.3], rtol=1e-14)
        np.testing.assert_allclose(sol.cost[-1], -0.125, rtol=1e-12)  # 3e-16


def decaying(**settings):
    field = lambda t, y, args: -y
    return jaxode.odeint(field, jnp.ones(2), [0.0, 1.0], **settings)


def test_times_that_it_cannot_evaluate():
    sol = decaying(dense=True)
    assert sol.evaluate(jnp.ones((2, 3))).shape == (2, 3, 2)
    with pytest.raises(ValueError, match="t=1.5, outside of the solve.*from 0 to 1"):
        sol.evaluate(jnp.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="t=nan, outside of the solve"):
        sol.evaluate(jnp.nan)
    with pytest.raises(TypeError, match="takes a time or an array of times; got 'now'"):
        sol.evaluate("now")
    values = quick_jit(lambda t: sol.evaluate(t))(jnp.array([-0.1, 0.5, 1.5]))
    assert np.isnan(values[:, 0]).tolist() == [True, False, True]


def test_evaluate_without_dense_says_what_to_type():
    with pytest.raises(ValueError, match=r"type jaxode.odeint\(..., dense=True\)"):
        decaying().evaluate(0.5)


def test_dense_without_a_bound_on_the_steps_is_refused():
    with pytest.raises(ValueError, match="max_steps is None; pass a bound such as"):
        decaying(dense=True, max_steps=None)


def test_solve_that_fails_is_known_as_far_as_it_got():
    field = lambda t, y, args: y**2
    settings: dict[str, Any] = dict(dense=True, throw=False, rtol=1e-6)
    sol = jaxode.odeint(field, jnp.ones(()), [0.0, 2.0], **settings)
    values = quick_jit(lambda t: sol.evaluate(t))(jnp.array([0.5, 1.5]))
    np.testing.assert_allclose(values[0], 2.0, rtol=1e-5)  # observed 2e-6
    assert not sol.stats.success and np.isnan(values[1])
