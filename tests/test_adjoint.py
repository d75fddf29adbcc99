"""Every adjoint on every problem: values and gradients against the closed forms."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import pytest

import jaxode
from jaxode._adjoint import ADJOINTS, resolve_adjoint

from helpers import relative_error, slope, values_and_gradients
from problems import ALL, PROBLEMS


DIRECTIONS = {"forwards": False, "backwards": True}

# Adjoint objects beside the names; `STOCK` is the class that `jaxode.Backsolve` repeats.
STOCK = diffrax.BacksolveAdjoint()
OBJECTS = {
    "settings": jaxode.Backsolve(solver=diffrax.Tsit5(), seminorm=True),
    "stock": STOCK,
    "two_checkpoints": diffrax.RecursiveCheckpointAdjoint(checkpoints=2),
}


@functools.cache
def compiled(adjoint: str) -> Any:
    """Values and gradients of all problems at once; tolerances are traced."""

    @values_and_gradients
    def solve(field, y0, ts, arguments):
        args, tolerance = arguments
        return jaxode.odeint(
            field,
            y0,
            ts,
            args,
            adjoint=OBJECTS.get(adjoint, adjoint),
            rtol=jax.lax.stop_gradient(tolerance),
            atol=jax.lax.stop_gradient(tolerance),
            max_steps=512,
            throw=False,
        ).ys

    def compute(tolerance, reverse, dtype):
        field, y0, ts, args = ALL.arrays(dtype, reverse)
        arguments = (args, jnp.asarray(tolerance, dtype))
        ys, (field_bar, y0_bar, ts_bar, (args_bar, _)) = solve(field, y0, ts, arguments)
        return ys, (field_bar, y0_bar, ts_bar, args_bar)

    return functools.cache(compute)


@functools.cache
def exact(reverse: bool) -> Any:
    """The truth, in double precision."""
    return exact_values_and_gradients(*ALL.arrays(jnp.float64, reverse))


exact_values_and_gradients = values_and_gradients(ALL.exact)


def pick(result: Any, problem: str) -> tuple[Any, Any]:
    """One problem's values, and gradients of its field, initial state and `args`."""
    ys, (field_bar, y0_bar, _, args_bar) = result
    ys, y0_bar = field_bar.split(ys)[problem], field_bar.split(y0_bar)[problem]
    return ys, (field_bar.fields[problem], y0_bar, args_bar[problem])


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("reverse", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_values_match_closed_form(x64, adjoint, reverse, problem):
    actual, _ = pick(compiled(adjoint)(1e-10, reverse, jnp.float64), problem)
    expected, _ = pick(exact(reverse), problem)
    error = relative_error(actual, expected)
    print("observed", error)
    assert error < 1e-8


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("reverse", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradients_match_closed_form(x64, adjoint, reverse, problem):
    _, actual = pick(compiled(adjoint)(1e-10, reverse, jnp.float64), problem)
    _, expected = pick(exact(reverse), problem)
    error = relative_error(actual, expected)
    print("observed", error)
    assert error < 1e-8


@pytest.mark.parametrize("reverse", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_time_gradients_match_closed_form(x64, adjoint, reverse):
    actual = compiled(adjoint)(1e-10, reverse, jnp.float64)[1][2]
    expected = exact(reverse)[1][2]
    error = relative_error(actual, expected)
    print("observed", error)
    assert error < 1e-8


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_single_precision_matches_closed_form(x64, adjoint, problem):
    actual = pick(compiled(adjoint)(1e-5, False, jnp.float32), problem)
    expected = pick(exact(False), problem)
    expected = jax.tree.map(lambda x: x.astype(jnp.float32), expected)
    error = relative_error(actual, expected)
    print("observed", error)
    assert error < 1e-4


@pytest.mark.parametrize("adjoint", OBJECTS)
def test_adjoint_objects_match_closed_form(x64, adjoint):
    actual = compiled(adjoint)(1e-10, True, jnp.float64)
    error = relative_error(actual, exact(True))
    print("observed", error)
    assert error < 1e-8


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradient_error_falls_in_proportion_to_the_tolerance(x64, adjoint):
    tolerances = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]
    run = compiled(adjoint)
    errors = [
        relative_error(run(tolerance, False, jnp.float64)[1], exact(False)[1])
        for tolerance in tolerances
    ]
    print("observed", slope(tolerances, errors), errors)
    assert 0.8 < slope(tolerances, errors) < 1.2


@pytest.mark.parametrize("other", ["backsolve", "direct"])
def test_adjoints_approach_each_other_as_the_tolerance_shrinks(x64, other):
    tolerances = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]
    differences = []
    for tolerance in tolerances:
        one = compiled("checkpoint")(tolerance, False, jnp.float64)[1]
        two = compiled(other)(tolerance, False, jnp.float64)[1]
        differences.append(relative_error(two, one))
    print("observed", differences)


def test_names_are_those_of_the_table():
    assert list(ADJOINTS) == ["backsolve", "checkpoint", "direct"]
    for name, adjoint in ADJOINTS.items():
        assert resolve_adjoint(name) is adjoint
