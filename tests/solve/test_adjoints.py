"""Every adjoint on every problem: values and gradients against the closed forms."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import pytest
from helpers import (
    compiled_for_users,
    each_adjoint,
    relative_error,
    slope,
    some_slow,
    values_and_gradients,
)
from problems import ALL, PROBLEMS

import jaxode
from jaxode._solve.adjoints import resolve_adjoint, with_checkpoints


REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
TOLERANCES = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]

# The others are Diffrax's own, and take longer to compile.
USUAL = "discrete", "backsolve"

# Beside the names. `jaxode.Backsolve` repeats what the second one does.
OBJECTS = {
    "settings": jaxode.Backsolve(solver=diffrax.Tsit5(), seminorm=True),
    "stock": diffrax.BacksolveAdjoint(),
    "two_checkpoints": diffrax.RecursiveCheckpointAdjoint(checkpoints=2),
}


@functools.cache
def solver_of(adjoint: str) -> Callable[..., Any]:
    """Values and gradients of all problems at once, given the tolerance.

    Compiled once: the tolerance and the times are traced.
    """

    @values_and_gradients
    def solve(field, y0, ts, args):
        args, tolerance = args
        tolerance = jax.lax.stop_gradient(tolerance)
        return jaxode.odeint(
            field,
            y0,
            ts,
            args,
            adjoint=OBJECTS.get(adjoint, adjoint),
            rtol=tolerance,
            atol=tolerance,
            max_steps=512,
            throw=False,
        ).ys

    @functools.cache
    def compute(tolerance: float, reverse: bool = False, dtype: Any = jnp.float64):
        field, y0, ts, args = ALL.arrays(dtype, reverse)
        ys, bars = solve(field, y0, ts, (args, jnp.asarray(tolerance, dtype)))
        field_bar, y0_bar, ts_bar, (args_bar, _) = bars
        return ys, (field_bar, y0_bar, ts_bar, args_bar)

    return compute


exact_values_and_gradients = values_and_gradients(ALL.exact)


@functools.cache
def exact(reverse: bool = False) -> Any:
    """The truth, in double precision."""
    return exact_values_and_gradients(*ALL.arrays(jnp.float64, reverse))


def part(result: Any, problem: str) -> tuple[Any, Any]:
    """One problem's values, and gradients of its field, initial state and `args`."""
    ys, (field_bar, y0_bar, _, args_bar) = result
    ys, y0_bar = field_bar.split(ys)[problem], field_bar.split(y0_bar)[problem]
    return ys, (field_bar.fields[problem], y0_bar, args_bar[problem])


@pytest.mark.parametrize("problem", PROBLEMS)
@REVERSE
@each_adjoint(*USUAL)
def test_values_match_closed_form(x64, adjoint, reverse, problem):
    actual, _ = part(solver_of(adjoint)(1e-10, reverse), problem)
    expected, _ = part(exact(reverse), problem)
    # Observed at most 7e-10 (logistic, downwards, where it grows).
    assert relative_error(actual, expected) < 5e-9


@pytest.mark.parametrize("problem", PROBLEMS)
@REVERSE
@each_adjoint(*USUAL)
def test_gradients_match_closed_form(x64, adjoint, reverse, problem):
    _, actual = part(solver_of(adjoint)(1e-10, reverse), problem)
    _, expected = part(exact(reverse), problem)
    # Observed at most 2e-9 (forced, downwards).
    assert relative_error(actual, expected) < 1e-8


@REVERSE
@each_adjoint(*USUAL)
def test_time_gradients_match_closed_form(x64, adjoint, reverse):
    (*_, actual, _), (*_, expected, _) = (
        solver_of(adjoint)(1e-10, reverse)[1],
        exact(reverse)[1],
    )
    # Observed at most 9e-11.
    assert relative_error(actual, expected) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
@each_adjoint("discrete")
def test_single_precision_matches_closed_form(x64, adjoint, problem):
    actual = part(solver_of(adjoint)(1e-5, False, jnp.float32), problem)
    expected = part(exact(), problem)
    expected = jax.tree.map(lambda x: x.astype(jnp.float32), expected)
    # Observed at most 7e-5 (rotation) at the solver's tolerance of 1e-5.
    assert relative_error(actual, expected) < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", OBJECTS)
def test_adjoint_object_matches_closed_form(x64, adjoint):
    actual = solver_of(adjoint)(1e-10, True)
    # Observed at most 2e-9.
    assert relative_error(actual, exact(True)) < 1e-8


def gradient_of_equal_steps(size: int, steps: int, max_steps: int) -> Any:
    """D sum(w * y(1)) / dy0 of dy/dt = k * y by so many Euler steps; `k` is 0.5."""

    def loss(y0):
        solution = jaxode.odeint(
            lambda t, y, k: k * y,
            y0,
            jnp.array([0.0, 1.0]),
            0.5,
            solver=diffrax.Euler(),
            rtol=None,
            dt0=1 / steps,
            max_steps=max_steps,
            throw=False,
        )
        return jnp.sum(jnp.arange(size, dtype=float) * solution.ys[-1])

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("steps", some_slow([10, 40, 200], 200))
def test_few_checkpoints_give_the_gradient_of_the_steps_taken(steps):
    size = 2**17  # float32, so that eight states fit into 4 MiB
    actual = gradient_of_equal_steps(size, steps, 4096)(jnp.ones(size))
    expected = jnp.arange(size, dtype=float) * (1 + 0.5 / steps) ** steps
    # Observed at most 1.2e-6: rounding over 200 steps.
    assert relative_error(actual, expected) < 5e-6


def test_number_of_checkpoints_is_left_alone_where_given_or_cheap():
    given = diffrax.RecursiveCheckpointAdjoint(checkpoints=50)
    assert with_checkpoints(given, jnp.ones(2**20), 4096) is given
    is_open = diffrax.RecursiveCheckpointAdjoint()
    assert with_checkpoints(is_open, jnp.ones(8), 4096) is is_open
    # 152 is the most for which Diffrax takes 16 itself.
    assert with_checkpoints(is_open, jnp.ones(2**20), 152) is is_open
    assert with_checkpoints(is_open, jnp.ones(2**20), 153) != is_open


def test_memory_for_checkpoints_is_bounded_for_a_large_state():
    size = 2**17
    gradient = compiled_for_users(
        gradient_of_equal_steps(size, 10, 4096), jnp.ones(size)
    )
    memory = gradient.memory_analysis()
    assert memory is not None
    states = memory.temp_size_in_bytes / (4 * size)
    # Observed 32 with jax 0.10, two for each of 16 checkpoints, and 180 with Diffrax's
    # own number, 90. With jax 0.12 the compiler's account has 2.3.
    assert states < 60


@each_adjoint(*USUAL)
def test_gradient_error_falls_in_proportion_to_the_tolerance(x64, adjoint):
    errors = [
        relative_error(solver_of(adjoint)(tolerance)[1], exact()[1])
        for tolerance in TOLERANCES
    ]
    # Observed 0.95 for backsolve and 0.99 for the others.
    assert 0.85 < slope(TOLERANCES, errors) < 1.15


@pytest.mark.slow
def test_backsolve_approaches_checkpoint_as_the_tolerance_shrinks(x64):
    backsolve, checkpoint = solver_of("backsolve"), solver_of("checkpoint")
    differences = [
        relative_error(backsolve(tolerance)[1], checkpoint(tolerance)[1])
        for tolerance in TOLERANCES
    ]
    # Observed 1.07, from 7e-4 down to 4e-9.
    assert 0.9 < slope(TOLERANCES, differences) < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_direct_equals_checkpoint_at_every_tolerance(x64, tolerance):
    direct, checkpoint = solver_of("direct"), solver_of("checkpoint")
    error = relative_error(direct(tolerance)[1], checkpoint(tolerance)[1])
    # Observed 3e-15 while every step is checkpointed and 3e-11 beyond: a step computed
    # again differs in its last digits, which the error estimate, a small difference,
    # magnifies into the next step's length.
    assert error < (1e-13 if tolerance > 5e-8 else 1e-9)


def test_adjoint_object_is_taken_as_it_is():
    adjoint = diffrax.DirectAdjoint()
    assert resolve_adjoint(adjoint) is adjoint
