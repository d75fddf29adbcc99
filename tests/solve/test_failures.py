"""Failed solves: what is raised, and what is returned where nothing may be."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, some_slow

import jaxode


RESULTS = diffrax.RESULTS
decay = lambda t, y, args: -y
nan_at_once = lambda t, y, args: -y + jnp.log(-jnp.ones_like(y))
nan_later = lambda t, y, args: jnp.where(t > 0.6, jnp.nan, -y)
swinging = lambda t, y, args: jnp.cos(30 * t) * y
blows_up = lambda t, y, args: y**2
# In single precision, the time at 1e4 has a resolution of 1e-3.
too_fast = lambda t, y, args: -1e6 * (y - jnp.sin(1e3 * t))

UNIT = np.linspace(0.0, 1.0, 5)
FIXED = dict(solver=diffrax.Euler(), rtol=None, dt0=0.125)
# name: field, times, settings, result, message, last time reached and its tolerance
FAILURES = {
    "max_steps": (
        swinging,
        UNIT,
        dict(max_steps=12, rtol=1e-6),
        RESULTS.max_steps_reached,
        "took max_steps=12 steps and got to t=0.45.* Raise max_steps",
        0.45,
    ),
    "nan_at_once": (
        nan_at_once,
        UNIT,
        {},
        RESULTS.dt_min_reached,
        "stopped at t=0: every step from there, however short, gave a NaN",
        0.0,
    ),
    "nan_later": (
        nan_later,
        UNIT,
        {},
        RESULTS.dt_min_reached,
        "stopped at t=0.59.*: every step from there, however short, gave a NaN",
        0.6,
    ),
    "nan_in_fixed_steps": (
        nan_later,
        UNIT,
        FIXED,
        RESULTS.dt_min_reached,
        "stopped at t=0.625: every step from there, however short, gave a NaN",
        0.625,
    ),
    "too_many_fixed_steps": (
        decay,
        UNIT,
        FIXED | dict(max_steps=5),
        RESULTS.max_steps_reached,
        "took max_steps=5 steps and got to t=0.625. .*raise dt0, for fixed",
        0.625,
    ),
    "blow_up": (
        blows_up,
        2 * UNIT,
        {},
        RESULTS.dt_min_reached,
        "stopped at t=0.9999.*: the step size fell below.* grows without bound",
        1.0,
    ),
    "underflow": (
        too_fast,
        1e4 + UNIT,
        dict(rtol=1e-4),
        RESULTS.dt_min_reached,
        "stopped at t=10000: the step size fell below the resolution.*Kvaerno5",
        1e4,
    ),
}
WAYS = {"eager": lambda f: f, "jit": jax.jit, "filter_jit": eqx.filter_jit}


def solve(field: Any, y0: Any, ts: Any, **settings: Any) -> jaxode.Solution:
    return jaxode.odeint(field, y0, jnp.asarray(ts, jnp.float32), **settings)


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_raises_and_tells_which_and_when(failure):
    field, ts, settings, _, message, _ = FAILURES[failure]
    with pytest.raises(jaxode.SolveError, match="^The solve " + message):
        solve(field, jnp.ones(2), ts, **settings)


@pytest.mark.parametrize("way", some_slow(["jit", "filter_jit"], "jit"))
def test_failure_raises_inside(way):
    run = WAYS[way](lambda y0: solve(nan_later, y0, UNIT).ys)
    with pytest.raises(RuntimeError, match="SolveError: The solve stopped at t=0.59"):
        jax.block_until_ready(run(jnp.ones(2)))


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_returns_a_code_and_the_last_state_reached(failure):
    field, ts, settings, result, _, t_reached = FAILURES[failure]
    sol = solve(field, jnp.ones(2), ts, throw=False, **settings)
    assert sol.result == result and not sol.stats.success
    ys = np.asarray(sol.ys)
    assert np.isfinite(ys).all()
    unreached = np.asarray(ts) > t_reached
    assert unreached.any()
    last = ys[unreached][0]
    assert (ys[unreached] == last).all()
    reached = ys[~unreached]
    # The last state is beyond the last time read, unless that is where it stopped.
    assert t_reached in ts or not (reached[-1] == last).all()


def test_rows_before_the_failure_are_those_of_a_shorter_solve():
    sol = solve(nan_later, jnp.ones(2), UNIT, throw=False, rtol=1e-5)
    np.testing.assert_allclose(sol.ys[:3, 0], np.exp(-UNIT[:3]), rtol=1e-5)  # 3e-6
    np.testing.assert_allclose(sol.ys[3:], np.exp(-0.6), rtol=1e-5)  # 2e-6


@pytest.mark.parametrize("way", some_slow(WAYS, "eager", "jit"))
def test_backward_failure_raises_and_says_so(way):
    adjoint = jaxode.Backsolve(max_steps=2, rtol=1e-6)
    loss = lambda y0: solve(swinging, y0, UNIT, adjoint=adjoint).ys.sum()
    message = r"The backward solve \(adjoint\) took max_steps=2 steps and got to t=0.96"
    with pytest.raises(RuntimeError, match=message):
        jax.block_until_ready(WAYS[way](jax.grad(loss))(jnp.ones(2)))


def test_gradient_is_nan_where_only_the_backward_solve_fails():
    # The square root of zero has an infinite slope.
    field = lambda t, y, args: -args * y + jnp.sqrt(0 * y)

    def loss(y0, args):
        sol = jaxode.odeint(field, y0, UNIT, args, adjoint="backsolve", throw=False)
        return sol.ys.sum(), sol

    run = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, sol), gradients = run(jnp.ones(2), jnp.array(0.5))
    assert sol.stats.success and np.isfinite(value)
    assert all(np.isnan(g).all() for g in gradients)


def test_gradient_of_backsolve_is_nan_where_the_forward_solve_fails():
    def loss(y0):
        return solve(nan_later, y0, UNIT, adjoint="backsolve", throw=False).ys.sum()

    assert np.isnan(quick_jit(jax.grad(loss))(jnp.ones(2))).all()


def test_failures_of_the_backward_solve_are_counted():
    def loss(y0):
        adjoint = jaxode.Backsolve(max_steps=2, rtol=1e-6)
        return solve(swinging, y0, UNIT, adjoint=adjoint, throw=False).ys.sum()

    compute = quick_jit(jaxode.value_and_grad_with_stats(loss))
    assert compute(jnp.ones(2))[2].num_failures == 4  # one for each interval


def test_one_failing_sample_of_a_batch_raises():
    field = lambda t, y, args: args * y**2
    run = lambda rate: jaxode.odeint(field, jnp.ones(1), [0.0, 2.0], rate).ys
    with pytest.raises(RuntimeError, match="SolveError: The solve stopped at t=0.99"):
        jax.vmap(run)(jnp.array([0.1, 1.0, 0.2]))


def test_one_failing_sample_leaves_the_others_alone():
    field = lambda t, y, args: args * y**2
    ts = jnp.array([0.0, 1.0, 2.0])
    rates = jnp.array([0.1, 1.0, 0.2])

    @quick_jit
    def run(rates):
        solve = lambda rate: jaxode.odeint(
            field, jnp.ones(1), ts, rate, throw=False, rtol=1e-5
        )
        return jax.vmap(solve)(rates)

    sol = run(rates)
    assert sol.stats.success.tolist() == [True, False, True]
    assert (sol.result == RESULTS.successful).tolist() == [True, False, True]
    assert np.isfinite(sol.ys).all()
    exact = 1 / (1 - np.outer(rates[::2], ts))
    np.testing.assert_allclose(sol.ys[::2, :, 0], exact, rtol=1e-4)  # observed 1e-6


def test_result_of_a_solve_that_went_well():
    sol = solve(decay, jnp.ones(2), UNIT)
    assert sol.result == RESULTS.successful and sol.stats.success


# What rules the steps


def test_component_that_rules_the_step_is_named():
    field = lambda t, y, args: {"slow": -y["slow"], "fast": jnp.cos(40 * t) * y["fast"]}
    y0 = {"slow": jnp.ones(2), "fast": jnp.array([0.0, 1.0, 0.0])}
    match = (
        r"It tried 9 steps and threw \d of them away. In .* allow, in y0\['fast'\]\[1\]"
    )
    with pytest.raises(jaxode.SolveError, match=match):
        jaxode.odeint(field, y0, [0.0, 3.0], max_steps=9, rtol=1e-6)


def test_stiffness_is_told_from_accuracy():
    rates = jnp.array([1.0, 1e4])
    field = lambda t, y, args: -rates * (y - jnp.cos(t))
    with pytest.raises(jaxode.SolveError, match="rate .* 1e.04 .* is stiff"):
        jaxode.odeint(field, jnp.ones(2), [0.0, 9.0], max_steps=200)
    with pytest.raises(jaxode.SolveError) as caught:
        jaxode.odeint(swinging, jnp.ones(2), [0.0, 9.0], max_steps=20, rtol=1e-6)
    assert "fastest rate" not in str(caught.value)
