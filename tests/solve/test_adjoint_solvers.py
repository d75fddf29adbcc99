"""Every solver under every adjoint."""

from typing import Any

import diffrax
import jax.numpy as jnp
import pytest
from helpers import ADJOINTS, relative_error, some_slow, values_and_gradients
from problems import PROBLEMS, STIFF

import jaxode
from jaxode._solve.arguments import check_kinds


FORCED = PROBLEMS["forced"]
HALF_BOSH3 = diffrax.HalfSolver(diffrax.Bosh3())
# Solver, settings and what is observed: at most a half of the tolerance given.
SOLVERS = {
    "euler": (diffrax.Euler(), dict(rtol=None, dt0=-0.002), 1e-2),
    "rk4": (jaxode.RK4(), dict(rtol=None, dt0=-0.02), 1e-7),
    "rk38": (jaxode.RK38(), dict(rtol=None, dt0=-0.02), 1e-7),
    "leapfrog": (diffrax.LeapfrogMidpoint(), dict(rtol=None, dt0=-0.005), 5e-4),
    "heun": (diffrax.Heun(), dict(rtol=1e-6, atol=1e-6), 1e-4),
    "midpoint": (diffrax.Midpoint(), dict(rtol=1e-6, atol=1e-6), 1e-5),
    "ralston": (diffrax.Ralston(), dict(rtol=1e-6, atol=1e-6), 1e-5),
    "reversible_heun": (diffrax.ReversibleHeun(), dict(rtol=1e-5, atol=1e-5), 1e-4),
    "bosh3": (diffrax.Bosh3(), dict(rtol=1e-7, atol=1e-7), 1e-5),
    "half_bosh3": (HALF_BOSH3, dict(rtol=1e-6, atol=1e-6), 4e-5),
    "dopri5": (diffrax.Dopri5(), dict(rtol=1e-9, atol=1e-9), 2e-8),
    "tsit5": (diffrax.Tsit5(), dict(rtol=1e-9, atol=1e-9), 1e-6),
    "dopri8": (diffrax.Dopri8(), dict(rtol=1e-10, atol=1e-10), 1e-6),
    "kvaerno3": (diffrax.Kvaerno3(), dict(rtol=1e-6, atol=1e-6), 1e-4),
    "kvaerno4": (diffrax.Kvaerno4(), dict(rtol=1e-7, atol=1e-7), 2e-6),
    "kvaerno5": (diffrax.Kvaerno5(), dict(rtol=1e-8, atol=1e-8), 2e-5),
    "implicit_euler": (diffrax.ImplicitEuler(), dict(rtol=1e-4, atol=1e-4), 5e-2),
}
# The adjoints share their code for all explicit solvers: of each kind of solver one is
# tested always, under one adjoint, and all the rest among the slow tests.
USUAL = {
    "euler-backsolve",
    "leapfrog-discrete",
    "reversible_heun-discrete",
    "half_bosh3-discrete",
    "dopri8-backsolve",
    "kvaerno5-backsolve",
}
NOT_BACKSOLVE = "discrete", "checkpoint", "direct"
CASES = [f"{solver}-{adjoint}" for solver in SOLVERS for adjoint in ADJOINTS]
exact_forced = values_and_gradients(FORCED.exact)


def test_table_has_every_solver_of_one_equation():
    classes = {
        value
        for name, value in vars(diffrax).items()
        if isinstance(value, type)
        and issubclass(value, diffrax.AbstractSolver)
        and not name.startswith("Abstract")
    }
    tested = {type(solver) for solver, *_ in SOLVERS.values()} & classes
    for kind in classes - tested:
        with pytest.raises(ValueError, match="is for equations in several terms"):
            check_kinds(kind(), None)


def run(arguments: Any, **settings: Any) -> Any:
    """Values and gradients by `odeint`."""
    solve = lambda *arguments: jaxode.odeint(*arguments, throw=False, **settings).ys
    return values_and_gradients(solve)(*arguments)


@pytest.mark.parametrize("case", some_slow(CASES, *USUAL))
def test_values_and_gradients_match_closed_form(x64, case):
    solver, adjoint = case.split("-")
    method, settings, tolerance = SOLVERS[solver]
    settings = settings | dict(solver=method, adjoint=adjoint, max_steps=1024)
    arguments = FORCED.arrays(jnp.float64, reverse=True)
    ours = run(arguments, **settings)
    assert relative_error(ours, exact_forced(*arguments)) < tolerance


@pytest.mark.parametrize("adjoint", some_slow(NOT_BACKSOLVE, "discrete"))
@pytest.mark.parametrize("solver", some_slow(["kvaerno3", "kvaerno5"], "kvaerno5"))
def test_stiff_problem_matches_closed_form(x64, solver, adjoint):
    # Not under backsolve: run backwards, the fast decay is a fast growth.
    settings = dict(rtol=1e-7, atol=1e-7, max_steps=256)
    settings |= dict(solver=SOLVERS[solver][0], adjoint=adjoint)
    arguments = STIFF.arrays(jnp.float64)
    exact = values_and_gradients(STIFF.exact)(*arguments)
    assert relative_error(run(arguments, **settings), exact) < 1e-4
