"""Solvers: unrolled steps against Diffrax's own, and the two methods it lacks."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    quick_jit,
    relative_error,
    slope,
    some_slow,
    unchecked_types,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode
from jaxode._steps.tableaus import _explicit, CLASSICAL, third_order_weights


SOLVERS = {
    "midpoint": diffrax.Midpoint(),
    "heun": diffrax.Heun(),
    "ralston": diffrax.Ralston(),
    "bosh3": diffrax.Bosh3(),
    "tsit5": diffrax.Tsit5(),
    "dopri5": diffrax.Dopri5(),
    "dopri8": diffrax.Dopri8(),
}
ADJOINTS = {
    "checkpoint": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
    "backsolve": diffrax.BacksolveAdjoint(),
}
PID = diffrax.PIDController(rtol=1e-4, atol=1e-4)
name = lambda x: type(x).__name__

# Changes as the field passes through zero, so some steps are rejected.
FORCED = PROBLEMS["forced"]


def solve(
    solver: diffrax.AbstractSolver,
    arguments: tuple,
    controller: Any = PID,
    **settings: Any,
) -> diffrax.Solution:
    """Plain Diffrax, from a first step that is too long."""
    field, y0, ts, args = arguments
    dt0 = 0.6 * jnp.sign(ts[-1] - ts[0])
    settings = dict(dt0=dt0, stepsize_controller=controller, max_steps=256) | settings
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field), solver, ts[0], ts[-1], y0=y0, args=args, **settings
    )


def both(solver: Any, run: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`run(solver, arguments)` with the solver written out, and as it is."""
    arguments = FORCED.arrays(jnp.float64, reverse)
    ours = quick_jit(lambda x: run(jaxode.Unrolled(solver), x))(arguments)
    return ours, quick_jit(lambda x: run(solver, x))(arguments)


@pytest.mark.parametrize("solver", some_slow(SOLVERS, "midpoint", "dopri8"))
def test_unrolled_takes_the_steps_of_its_solver(x64, solver):
    solver = SOLVERS[solver]
    # Tight enough that the first step is rejected.
    tolerance = 1e-4 if solver.tableau.num_stages < 5 else 1e-10
    pid = diffrax.PIDController(rtol=tolerance, atol=tolerance)

    def run(solver, arguments):
        solution = solve(solver, arguments, pid, saveat=diffrax.SaveAt(dense=True))
        between = [0.25, 0.7, 1.15]
        return solution.stats["num_rejected_steps"], [
            solution.evaluate(t) for t in between
        ]

    (rejected, ours), (expected_rejected, expected) = both(solver, run)
    assert rejected == expected_rejected > 0
    # Observed at most 4e-16.
    assert relative_error(ours, expected) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_unrolled_has_the_gradients_of_its_solver(x64, adjoint):
    def run(solver, arguments):
        field, y0, ts, args = arguments

        def loss(differentiated):
            field, y0, args = differentiated
            solution = solve(solver, (field, y0, ts, args), adjoint=ADJOINTS[adjoint])
            return weighted_sum(solution.ys)

        return jax.grad(loss)((field, y0, args))

    ours, expected = both(diffrax.Tsit5(), run, reverse=True)
    # Observed at most 2e-14, under backsolve.
    assert relative_error(ours, expected) < 1e-12


def test_unrolled_has_the_tangents_of_its_solver(x64):
    def run(solver, arguments):
        field, y0, ts, args = arguments
        at = lambda y0: (
            solve(solver, (field, y0, ts, args), adjoint=diffrax.ForwardMode()).ys
        )
        return jax.jvp(at, (y0,), (jnp.ones_like(y0),))

    ours, expected = both(diffrax.Tsit5(), run)
    # Observed 2e-16.
    assert relative_error(ours, expected) < 1e-14


CONTROLLERS = {
    # A jump invalidates the first stage kept from the step before.
    "jumps": dict(
        controller=diffrax.ClipStepSizeController(PID, jump_ts=[0.4, 0.8], step_ts=[1])
    ),
    "constant": dict(
        controller=diffrax.ConstantStepSize(), saveat=diffrax.SaveAt(steps=True)
    ),
    "event": dict(event=diffrax.Event(lambda t, y, args, **kwargs: y[0] - 0.65)),
}


@pytest.mark.parametrize("reverse", some_slow([False, True], True))
@pytest.mark.parametrize("setting", CONTROLLERS)
def test_unrolled_equals_its_solver_with(x64, setting, reverse):
    def run(solver, arguments):
        if setting == "jumps":
            field, *rest = arguments
            sign = lambda t: jnp.where(t < 0.4, 1.0, jnp.where(t < 0.8, -1.0, 2.0))
            arguments = (lambda t, y, args: sign(t) * field(t, y, args), *rest)
        solution = solve(solver, arguments, **CONTROLLERS[setting])
        return solution.ts, solution.ys, solution.stats["num_steps"]

    (ts, ys, steps), (expected_ts, expected_ys, expected_steps) = both(
        diffrax.Dopri5(), run, reverse
    )
    assert steps == expected_steps
    finite = np.isfinite(expected_ts)
    # Observed at most 5e-16.
    assert relative_error(ts[finite], expected_ts[finite]) < 1e-14
    assert relative_error(ys[finite], expected_ys[finite]) < 1e-14


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
def test_first_stage_is_not_kept_where_a_rejected_step_is_moved_past_a_jump(sign):
    # dy/ds = -y + 3 for s > 3, where s = sign * t; the first step, from 3, is rejected.
    field = lambda t, y, args: sign * (jnp.where(sign * t > 3.0, 3.0, 0.0) - y)
    pid = diffrax.PIDController(rtol=1e-5, atol=1e-7)
    controller = diffrax.ClipStepSizeController(pid, jump_ts=jnp.array([3.0 * sign]))
    ts = sign * jnp.array([3.0, 5.0])
    solutions = [
        solve(
            solver,
            (field, jnp.array(1.0), ts, None),
            controller,
            dt0=sign * jnp.array(1.0),
        )
        for solver in (jaxode.Unrolled(diffrax.Dopri5()), diffrax.Dopri5())
    ]
    ours, stock = solutions
    assert ours.ys is not None and stock.ys is not None
    assert int(stock.stats["num_rejected_steps"]) > 0
    assert ours.stats["num_steps"] == stock.stats["num_steps"]
    np.testing.assert_allclose(ours.ys, stock.ys, rtol=1e-6)
    # 3 - 2 exp(-2).
    np.testing.assert_allclose(ours.ys[0], 2.729329, rtol=5e-6)


def test_unrolled_refuses_an_implicit_solver():
    message = "got Kvaerno3, which is not an explicit Runge-Kutta .* diffrax.Dopri5"
    with unchecked_types(), pytest.raises(ValueError, match=message):
        jaxode.Unrolled(diffrax.Kvaerno3())  # pyright: ignore[reportArgumentType]


LENGTHS = [0.1, 0.05, 0.025, 0.0125]


@pytest.mark.parametrize("solver", [jaxode.RK4(), jaxode.RK38()], ids=name)
def test_classical_method_is_of_order_four(x64, solver):
    field, y0, ts, args = arguments = FORCED.arrays(jnp.float64)

    @quick_jit
    def run(dt0):
        sol = jaxode.odeint(field, y0, ts, args, solver=solver, rtol=None, dt0=dt0)
        return sol.ys

    exact = FORCED.exact(*arguments)
    errors = [relative_error(run(length), exact) for length in LENGTHS]
    # Observed 4.05 and 4.07.
    assert abs(slope(LENGTHS, errors) - 4) < 0.15


@pytest.mark.parametrize("solver", [jaxode.RK4(), jaxode.RK38()], ids=name)
def test_dense_output_is_of_the_order_of_the_steps(x64, solver):
    field, y0, _, args = FORCED.arrays(jnp.float64)
    # None of these is at the end of a step of any of the lengths.
    ts = 0.2 + jnp.array([0.0, 0.137, 0.411, 0.883, 1.0])

    @quick_jit
    def run(dt0):
        return solve(
            solver,
            (field, y0, ts, args),
            diffrax.ConstantStepSize(),
            dt0=dt0,
            saveat=diffrax.SaveAt(ts=ts[1:-1]),
        ).ys

    exact = FORCED.exact(field, y0, ts, args)[1:-1]
    errors = [relative_error(run(length), exact) for length in LENGTHS]
    # An extension of order three has a local error of order four: observed 3.9.
    assert abs(slope(LENGTHS, errors) - 4) < 0.3


def test_third_order_weights_of_the_classical_method_are_those_in_print():
    # Hairer, Norsett & Wanner, II.6, eq. 6.2.
    expected = [[1, -3 / 2, 2 / 3], [0, 1, -2 / 3], [0, 1, -2 / 3], [0, -1 / 2, 2 / 3]]
    assert np.allclose(third_order_weights(CLASSICAL), expected, rtol=0, atol=1e-15)


def test_tableau_with_a_wrong_digit_fails():
    with pytest.raises(ValueError, match="order condition"):
        _explicit(
            [[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 6, 1 / 3]
        )
