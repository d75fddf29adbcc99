"""Counts of field calls and steps, against a field that counts for itself."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    ADJOINTS,
    Counting,
    Counts,
    counts_every_call,
    each_adjoint,
    quick_jit,
    some_slow,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode


FORCED = PROBLEMS["forced"]
FIXED = dict(rtol=None, dt0=0.25)
# Too long a first step for the tolerance: it is rejected.
REJECTED = dict(rtol=1e-5, atol=1e-5, dt0=1.0)
LOOSE = dict(rtol=1e-3, atol=1e-3)
HAIRER = dict(rtol=1e-5, atol=1e-5)
JUMPS = dict(
    controller=diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=1e-4, atol=1e-4), jump_ts=[0.4, 0.8]
    ),
    dt0=0.2,
)
# The start of the first step is a jump; that step is rejected, and moved past it.
JUMP_AT_START = dict(
    controller=diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=1e-5, atol=1e-5), jump_ts=[0.2]
    ),
    dt0=1.0,
)
AS_IT_IS = dict(unroll=False)
HALF = diffrax.HalfSolver

FORWARD = {
    "euler": (diffrax.Euler(), FIXED),
    "rk4": (jaxode.RK4(), FIXED),
    "rk38": (jaxode.RK38(), FIXED),
    "leapfrog": (diffrax.LeapfrogMidpoint(), FIXED),
    "tsit5_fixed": (diffrax.Tsit5(), FIXED),
    "tsit5": (diffrax.Tsit5(), REJECTED),
    "heun": (diffrax.Heun(), REJECTED),
    "midpoint": (diffrax.Midpoint(), REJECTED),
    "ralston": (diffrax.Ralston(), REJECTED),
    "dopri5": (diffrax.Dopri5(), REJECTED),
    "bosh3": (diffrax.Bosh3(), REJECTED),
    "dopri8": (diffrax.Dopri8(), REJECTED | dict(rtol=1e-9, atol=1e-9)),
    "reversible_heun": (diffrax.ReversibleHeun(), REJECTED),
    "half_euler": (HALF(diffrax.Euler()), REJECTED | dict(rtol=1e-3, atol=1e-3)),
    "half_bosh3": (HALF(diffrax.Bosh3()), REJECTED),
    "half_bosh3_as_it_is": (HALF(diffrax.Bosh3()), REJECTED | AS_IT_IS),
    "half_dopri5_by_hairer": (HALF(diffrax.Dopri5()), HAIRER),
    "dopri5_as_it_is": (diffrax.Dopri5(), REJECTED | AS_IT_IS),
    "heun_by_hairer": (diffrax.Heun(), HAIRER),
    "dopri5_by_hairer": (diffrax.Dopri5(), HAIRER),
    "dopri5_as_it_is_by_hairer": (diffrax.Dopri5(), HAIRER | AS_IT_IS),
    "dopri5_jumps": (diffrax.Dopri5(), JUMPS),
    "dopri5_as_it_is_jumps": (diffrax.Dopri5(), JUMPS | AS_IT_IS),
    "half_dopri5_jumps": (HALF(diffrax.Dopri5()), JUMPS),
    "dopri5_jump_at_start": (diffrax.Dopri5(), JUMP_AT_START),
    "dopri5_as_it_is_jump_at_start": (diffrax.Dopri5(), JUMP_AT_START | AS_IT_IS),
    "half_dopri5_jump_at_start": (HALF(diffrax.Dopri5()), JUMP_AT_START),
}

# Of each way to count calls, one solver.
ONE_OF_EACH = """
    rk4 leapfrog dopri5 reversible_heun half_bosh3 half_dopri5_by_hairer
    dopri5_as_it_is dopri5_by_hairer dopri5_as_it_is_by_hairer dopri5_jumps
    dopri5_as_it_is_jumps half_dopri5_jumps dopri5_jump_at_start
""".split()


def counting(dtype: Any = jnp.float32) -> tuple[Counts, Counting, Any, Any, Any]:
    counts = Counts()
    field, y0, ts, args = FORCED.arrays(dtype)
    return counts, Counting(field, counts), y0, ts, args


@pytest.mark.parametrize("case", some_slow(FORWARD, *ONE_OF_EACH))
def test_nfe_is_what_the_field_counts(x64, case):
    solver, settings = FORWARD[case]
    counts, *problem = counting(jnp.float64)
    solve = lambda *problem: jaxode.odeint(
        *problem, solver=solver, throw=False, **settings
    )
    stats = quick_jit(solve)(*problem).stats
    assert stats.success and stats.num_steps >= 4
    # A first step of 1 is rejected.
    assert stats.num_rejected_steps > 0 or settings.get("dt0") != 1
    assert counts.read() == (stats.nfe, 0)


# Beside the names.
OBJECTS = {"stock": diffrax.BacksolveAdjoint(), "forward": diffrax.ForwardMode()}


@pytest.mark.parametrize(
    "adjoint", some_slow([*ADJOINTS, *OBJECTS], "backsolve", "stock")
)
def test_nfe_does_not_depend_on_the_adjoint(adjoint):
    counts, *problem = counting()
    adjoint = OBJECTS.get(adjoint, adjoint)
    solve = lambda *problem: jaxode.odeint(
        *problem, adjoint=adjoint, max_steps=64, throw=False, **HAIRER
    )
    nfe = quick_jit(solve)(*problem).stats.nfe
    assert counts.read() == (nfe, 0)


class Calls:
    """A field that reports each of its calls from the compiled program."""

    def __init__(self):
        self.number = 0

    def __call__(self, t, y, rate):
        jax.debug.callback(self._count)
        return robertson(t, y, rate)

    def _count(self):
        self.number += 1

    def read(self) -> int:
        jax.effects_barrier()
        return self.number


def robertson(t, y, rate):
    a, b, c = 0.04 * y[0], rate * y[1] ** 2, 1e4 * y[1] * y[2]
    return jnp.stack([c - a, a - b - c, b])


STIFF = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 40.0]), jnp.array(3e7)
IMPLICIT = {
    "Kvaerno5": (diffrax.Kvaerno5(), dict(rtol=1e-4, atol=1e-7)),
    "Kvaerno3": (diffrax.Kvaerno3(), dict(rtol=1e-3, atol=1e-6, adjoint="backsolve")),
    "ImplicitEuler": (diffrax.ImplicitEuler(), dict(rtol=1e-3, atol=1e-5, dt0=1.0)),
    "in halves": (diffrax.HalfSolver(diffrax.Kvaerno3()), dict(rtol=1e-3)),
}


@pytest.mark.parametrize("case", some_slow(IMPLICIT, "Kvaerno5"))
def test_nfe_of_an_implicit_solver_is_what_the_field_counts(case):
    solver, settings = IMPLICIT[case]
    field, (y0, ts, rate) = Calls(), STIFF
    rate = 1e2 * jnp.ones(()) if case == "ImplicitEuler" else rate
    sol = jaxode.odeint(field, y0, ts, rate, solver=solver, throw=False, **settings)
    # Whether it ends or not, and more than one call for each implicit stage.
    assert sol.stats.num_steps >= 3
    assert sol.stats.nfe == field.read() > 2 * sol.stats.num_steps


@pytest.mark.slow
def test_nfe_of_an_implicit_solver_is_counted_for_each_sample():
    y0, ts, _ = STIFF
    rates = jnp.array([3e7, 3e3, 1e2])

    def solve(rate) -> Any:
        return jaxode.odeint(
            robertson, y0, ts, rate, solver=diffrax.Kvaerno3(), dt0=1e-5, throw=False
        )

    # No first step is rejected: Diffrax asks the field for all lanes if one is.
    alone = jnp.stack([solve(rate).stats.nfe for rate in rates])
    assert len(set(alone.tolist())) == 3
    np.testing.assert_array_equal(jax.vmap(solve)(rates).stats.nfe, alone)


@pytest.mark.parametrize("adjoint", ["checkpoint"])
def test_nfe_of_an_implicit_solver_in_diffrax_s_loop_is_none(adjoint):
    field, y0, ts, args = FORCED.arrays(jnp.float32)
    stats = jaxode.odeint(
        field, y0, ts, args, solver=diffrax.Kvaerno3(), rtol=1e-2, adjoint=adjoint
    ).stats
    assert stats.nfe is None


@each_adjoint("discrete")
def test_backward_steps_of_an_implicit_solver_are_counted(adjoint):
    field, y0, ts, args = FORCED.arrays(jnp.float32)
    settings: dict[str, Any] = dict(solver=diffrax.ImplicitEuler(), adjoint=adjoint)
    settings |= dict(rtol=1e-1, atol=1e-2, max_steps=32, throw=False)

    def loss(y0):
        sol = jaxode.odeint(field, y0, ts, args, **settings)
        return weighted_sum(sol.ys), sol.stats

    (_, forward), grads, backward = quick_jit(jaxode.value_and_grad_with_stats(loss))(
        y0
    )
    assert forward.success and jnp.isfinite(grads).all()
    assert backward.num_failures == 0
    if adjoint == "backsolve":
        # Our own loop counts; an implicit step that is differentiated is not counted.
        assert backward.nfe > 2 * backward.num_steps
    else:
        assert jnp.isnan(backward.nfe)
        # The discrete adjoint differentiates no step that was thrown away.
        differentiated = (
            forward.num_accepted_steps if adjoint == "discrete" else forward.num_steps
        )
        assert int(backward.num_steps) == int(differentiated)
    assert backward.num_steps > 0


BACKWARD = {
    "backsolve": ("backsolve", {}),
    "backsolve_settings": (jaxode.Backsolve(solver=diffrax.Tsit5(), dt0=0.01), {}),
    "backsolve_euler": ("backsolve", FIXED | dict(solver=diffrax.Euler())),
    "backsolve_bosh3": ("backsolve", dict(solver=diffrax.Bosh3())),
    "backsolve_ralston": ("backsolve", LOOSE | dict(solver=diffrax.Ralston())),
    "backsolve_reversible": (
        "backsolve",
        LOOSE | dict(solver=diffrax.ReversibleHeun()),
    ),
    "backsolve_half_bosh3": ("backsolve", dict(solver=HALF(diffrax.Bosh3()))),
    "direct_half_bosh3": ("direct", dict(solver=HALF(diffrax.Bosh3()))),
    "checkpoint": ("checkpoint", {}),
    "two_checkpoints": (diffrax.RecursiveCheckpointAdjoint(checkpoints=2), {}),
    "checkpoint_rk4": ("checkpoint", FIXED | dict(solver=jaxode.RK4())),
    "checkpoint_as_it_is": ("checkpoint", AS_IT_IS),
    "direct": ("direct", {}),
    "discrete": ("discrete", {}),
    "discrete_half_bosh3": ("discrete", dict(solver=HALF(diffrax.Bosh3()))),
}

USUAL_BACKWARD = "backsolve", "backsolve_half_bosh3", "discrete"


@functools.cache
def gradient_with_counts(case: str) -> Any:
    """Forward and backward stats, and the field's own counts, of one gradient.

    It passes through two solves, one after the other.
    """
    adjoint, settings = BACKWARD[case]
    counts, field, y0, ts, args = counting()
    settings = REJECTED | dict(adjoint=adjoint, max_steps=64, throw=False) | settings

    def solve(y0, _):
        sol = jaxode.odeint(field, y0, ts, args, **settings)
        return sol.ys[-1], sol

    def loss(y0):
        _, solutions = jax.lax.scan(solve, y0, length=2)
        return weighted_sum(solutions.ys), solutions.stats

    (_, forward), _, backward = quick_jit(jaxode.value_and_grad_with_stats(loss))(y0)
    assert forward.success.all() and backward.num_solves == 2
    return forward, jax.tree.map(float, backward), counts.read()


@counts_every_call
@pytest.mark.parametrize("case", some_slow(BACKWARD, *USUAL_BACKWARD))
def test_backward_nfe_is_what_the_field_counts(case):
    forward, backward, (calls, vjps) = gradient_with_counts(case)
    assert backward.nfe == vjps > 0
    # The second solve starts elsewhere and takes other steps: the sum is over both.
    is_fixed = BACKWARD[case][1].get("rtol", 1) is None
    assert is_fixed or forward.nfe[0] != forward.nfe[1]
    # The continuous adjoint evaluates the field wherever it differentiates it.
    again = vjps if "backsolve" in case else 0
    assert calls >= forward.nfe.sum() + again


@pytest.mark.parametrize("case", some_slow(["checkpoint", "direct"], "direct"))
def test_backward_steps_are_the_forward_ones_where_these_are_differentiated(case):
    forward, backward, _ = gradient_with_counts(case)
    assert backward.num_steps == int(forward.num_steps.sum())
    assert backward.num_rejected_steps == int(forward.num_rejected_steps.sum()) > 0
    assert backward.num_failures == backward.reconstruction_error == 0


def test_rejected_steps_are_not_differentiated_by_the_discrete_adjoint():
    forward, backward, _ = gradient_with_counts("discrete")
    assert backward.num_steps == int(forward.num_accepted_steps.sum())
    assert backward.num_rejected_steps == 0 < int(forward.num_rejected_steps.sum())
    assert backward.num_failures == backward.reconstruction_error == 0


@pytest.mark.slow
def test_calls_that_compute_steps_again_are_not_counted():
    forward, few, (few_calls, _) = gradient_with_counts("two_checkpoints")
    _, many, (many_calls, _) = gradient_with_counts("checkpoint")
    assert (forward.num_steps > 2).all()
    assert few.nfe == many.nfe
    assert few_calls > many_calls  # observed 230 and 156


def test_each_sample_has_its_own_counts(x64):
    rates = jnp.array([0.5, 4.0, 30.0])
    field = lambda t, y, rate: jnp.cos(rate * t) * y
    ts = jnp.array([0.0, 2.0])
    solve = lambda rate: jaxode.odeint(field, jnp.ones(1), ts, rate, rtol=1e-5)
    together = quick_jit(jax.vmap(lambda rate: solve(rate).stats))(rates)
    alone = [quick_jit(lambda rate: solve(rate).stats)(rate) for rate in rates]
    assert together.nfe.tolist() == [int(stats.nfe) for stats in alone]
    assert together.num_steps.tolist() == [int(stats.num_steps) for stats in alone]
    assert len(set(together.nfe.tolist())) == 3


def test_last_step_is_the_length_of_the_last_accepted_one():
    field = lambda t, y, args: -y
    ts = jnp.array([0.0, 1.0])
    sol = jaxode.odeint(field, jnp.ones(1), ts, rtol=0.1, atol=0.1, dt0=0.125)
    # One step of the given length, and ten times as much takes it to the end.
    assert sol.stats.num_steps == 2
    np.testing.assert_allclose(sol.stats.last_step, 0.875, rtol=1e-6)  # equal
