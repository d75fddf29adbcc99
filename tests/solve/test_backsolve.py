"""The continuous adjoint: against Diffrax's, its settings, and what it reports."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    quick_jit,
    relative_error,
    some_slow,
    values_and_gradients,
    weighted_sum,
)
from problems import PROBLEMS, Stiff

import jaxode


FORCED = PROBLEMS["forced"]
PID = diffrax.PIDController(rtol=1e-6, atol=1e-6)
SEMI = eqx.tree_at(lambda c: c.norm, PID, diffrax.adjoint_rms_seminorm)
Backsolve = jaxode.Backsolve

# Diffrax's class and ours, set up to take the same steps: Diffrax starts at 0.01.
PAIRS = {
    "fixed": (diffrax.BacksolveAdjoint(), Backsolve(), dict(rtol=None, dt0=-0.05)),
    "adaptive": (
        diffrax.BacksolveAdjoint(stepsize_controller=PID),
        Backsolve(dt0=0.01, rtol=1e-6, atol=1e-6),
        {},
    ),
    "seminorm": (
        diffrax.BacksolveAdjoint(stepsize_controller=SEMI),
        Backsolve(dt0=0.01, rtol=1e-6, atol=1e-6, seminorm=True),
        {},
    ),
    "solver": (
        diffrax.BacksolveAdjoint(solver=diffrax.Heun(), stepsize_controller=PID),
        Backsolve(dt0=0.01, solver=diffrax.Heun(), controller=PID),
        {},
    ),
}


@pytest.mark.parametrize("pair", some_slow(PAIRS, "fixed", "seminorm"))
def test_gradients_are_those_of_diffrax_at_equal_steps(x64, pair):
    stock, ours, settings = PAIRS[pair]
    field, y0, ts, args = FORCED.arrays(jnp.float64, reverse=True)
    # One interval: with more, Diffrax carries its last step over to the next.
    ts = ts[jnp.array([0, -1])]
    settings = dict(throw=False, max_steps=1000) | settings
    run = lambda adjoint: values_and_gradients(
        lambda *problem: jaxode.odeint(*problem, adjoint=adjoint, **settings).ys
    )(field, y0, ts, args)
    # Observed at most 7e-15.
    assert relative_error(run(ours), run(stock)) < 1e-12


def gradient(problem: Any, adjoint: Any, **settings: Any) -> Any:
    """Value, gradients of all inputs and backward stats, compiled."""
    settings = dict(adjoint=adjoint, throw=False, max_steps=2000) | settings

    def loss(problem):
        sol = jaxode.odeint(*problem, **settings)
        return weighted_sum(sol.ys), sol

    (_, sol), grads, stats = quick_jit(jaxode.value_and_grad_with_stats(loss))(problem)
    assert sol.stats.success and stats.num_failures == 0
    return sol, grads, stats


TIGHT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10)


def test_tolerances_are_those_of_the_backward_solve(x64):
    problem = FORCED.arrays(jnp.float64)
    _, truth = values_and_gradients(FORCED.exact)(*problem)
    runs = [
        gradient(problem, Backsolve(rtol=tolerance, atol=tolerance), **TIGHT)
        for tolerance in (1e-4, 1e-8)
    ]
    assert runs[0][0].stats.nfe == runs[1][0].stats.nfe
    assert runs[1][2].num_steps > 2 * runs[0][2].num_steps
    loose, tight = (relative_error(grads, truth) for _, grads, _ in runs)
    assert tight < 1e-2 * loose


def test_dt0_is_the_first_backward_step_and_by_default_the_last_forward_one(x64):
    field, y0, ts, args = FORCED.arrays(jnp.float64)
    ts = ts[jnp.array([0, -1])]

    @quick_jit
    def run(dt0):
        def loss(y0):
            sol = jaxode.odeint(
                field, y0, ts, args, adjoint=Backsolve(dt0=dt0), throw=False
            )
            return sol.ys.sum(), sol.stats

        return jaxode.value_and_grad_with_stats(loss)(y0)

    default, forward, stats = gradient((field, y0, ts, args), Backsolve())
    (_, forward), _grads, given = run(default.stats.last_step)
    assert float(forward.last_step) < 0.9 * float(ts[-1] - ts[0])
    assert (stats.nfe, stats.num_steps) == (given.nfe, given.num_steps)
    _, _, short = run(jnp.array(1e-6))
    assert short.num_steps > given.num_steps  # observed 12 and 5


def test_fixed_forward_steps_bound_the_backward_ones(x64):
    problem = FORCED.arrays(jnp.float64)
    settings = dict(solver=jaxode.RK4(), rtol=None, dt0=0.1)
    # The intervals are 0.3, 0.4 and 0.4 long.
    assert gradient(problem, Backsolve(), **settings)[2].num_steps == 3 + 4 + 4
    finer = gradient(problem, Backsolve(dt0=0.05), **settings)
    assert finer[0].stats.num_steps == 11 and finer[2].num_steps == 22


def test_solver_without_error_estimate_takes_equal_steps_backwards(x64):
    problem = FORCED.arrays(jnp.float64)
    adjoint = Backsolve(solver=jaxode.RK4(), dt0=0.01)
    _, grads, stats = gradient(problem, adjoint, rtol=1e-9, atol=1e-9)
    assert stats.num_steps == 30 + 40 + 40 and stats.nfe == 4 * stats.num_steps
    _, truth = values_and_gradients(FORCED.exact)(*problem)
    assert relative_error(grads, truth) < 1e-7  # observed 1e-8


def test_controller_is_that_of_the_backward_solve(x64):
    problem = FORCED.arrays(jnp.float64)
    limited = diffrax.PIDController(rtol=1e-3, atol=1e-3, dtmax=0.01)
    sol, _, stats = gradient(problem, Backsolve(controller=limited))
    assert sol.stats.num_steps < 20 and stats.num_steps >= 110


def test_seminorm_saves_backward_steps(x64):
    # The parameter's part of the adjoint turns fast, and the state does not.
    field = lambda t, y, args: -y + 1e-3 * jnp.sum(args * jnp.sin(60 * t))
    problem = (field, jnp.ones(2), jnp.array([0.0, 2.0]), jnp.ones(20))

    def steps(seminorm):
        def loss(args):
            adjoint = Backsolve(rtol=1e-6, atol=1e-6, seminorm=seminorm)
            sol = jaxode.odeint(*problem[:3], args, adjoint=adjoint, throw=False)
            return sol.ys.sum() * 1e3

        run = quick_jit(jaxode.value_and_grad_with_stats(loss))
        return float(run(problem[3])[2].num_steps)

    assert steps(True) < 0.8 * steps(False)


def test_reconstruction_error_is_that_of_solving_back_from_each_end(x64):
    problem = FORCED.arrays(jnp.float64)
    field, _, ts, args = problem
    settings: dict[str, Any] = dict(solver=diffrax.Heun(), rtol=None, dt0=0.1)
    sol, _, stats = gradient(problem, Backsolve(), **settings)
    errors = []
    for i in range(1, 4):
        back = -settings["dt0"]
        ends = jnp.stack([ts[i], ts[i - 1]])
        again = jaxode.odeint(
            field, sol.ys[i], ends, args, **(settings | dict(dt0=back))
        )
        difference = np.linalg.norm(again.ys[-1] - sol.ys[i - 1])
        errors.append(difference / np.linalg.norm(sol.ys[i - 1]))
    # In single precision, as the statistics are; observed 3e-8.
    np.testing.assert_allclose(stats.reconstruction_error, max(errors), rtol=1e-6)


def test_reconstruction_error_is_small_where_nothing_contracts(x64):
    problem = PROBLEMS["rotation"].arrays(jnp.float64)
    stats = gradient(problem, Backsolve(), rtol=1e-6, atol=1e-6)[2]
    assert stats.reconstruction_error < 1e-5  # observed 1e-6


def test_reconstruction_error_is_large_where_much_has_been_forgotten(x64):
    # Forwards, errors shrink by exp(30); backwards they grow as much.
    problem = Stiff(jnp.array(30.0)), jnp.ones(2), jnp.array([0.0, 1.0]), jnp.ones(())
    stats = gradient(problem, Backsolve(), rtol=1e-6, atol=1e-6)[2]
    assert stats.reconstruction_error > 1  # observed 3e4


def test_gradients_have_the_precision_of_what_they_belong_to(x64):
    # Parameters in single precision under a state in double.
    def loss(y0, args):
        field = lambda t, y, args: -args.astype(y.dtype) * y
        sol = jaxode.odeint(field, y0, [0.0, 1.0], args, adjoint="backsolve")
        return sol.ys[-1].sum()

    run = quick_jit(jax.grad(loss, (0, 1)))
    y0_bar, args_bar = run(jnp.ones(2), jnp.array(2.0, jnp.float32))
    assert (y0_bar.dtype, args_bar.dtype) == (jnp.float64, jnp.float32)
    np.testing.assert_allclose(args_bar, -2 * np.exp(-2), rtol=1e-2)  # observed 3e-3


def test_second_gradient_does_not_trace_the_field_for_another_solve():
    calls = []

    def field(t, y, args):
        calls.append(None)
        return -args * y

    def loss(y0):
        return jaxode.odeint(
            field, y0, [0.0, 1.0], jnp.array(2.0), adjoint="backsolve"
        ).ys.sum()

    traced = []
    for _ in range(3):
        jax.grad(loss)(jnp.ones(2))
        traced.append(len(calls))
        calls.clear()
    # Each eager call looks at the field once or twice; only the first compiles.
    assert traced[1] == traced[2] <= 2 < traced[0]
