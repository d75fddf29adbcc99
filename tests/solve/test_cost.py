"""Running costs: their integrals and gradients, and that no step depends on them."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    each_adjoint,
    quick_jit,
    relative_error,
    some_slow,
    unchecked_types,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode
from jaxode.nn import Divergence, JacobianNorm, KineticEnergy


FORCED = PROBLEMS["forced"]


class Cost(eqx.Module):
    """A pytree of costs, with an array of its own."""

    weight: Any

    def __call__(self, t, y, args):
        return {"sum": self.weight * y[0] ** 2, "each": (jnp.cos(t) * y,)}


COST = Cost(np.array(0.6))


def arrays():
    to_array = lambda x: jnp.asarray(x, jnp.float64)
    return (*FORCED.arrays(jnp.float64), jax.tree.map(to_array, COST))


def truth(field, y0, ts, args, cost):
    """State and costs as one ODE, at a tolerance a thousand times finer."""

    def both(t, state, args):
        field, cost, args = args
        y, _ = state
        return field(t, y, args), cost(t, y, args)

    start = y0, jax.tree.map(jnp.zeros_like, cost(ts[0], y0, args))
    settings: dict[str, Any] = dict(rtol=1e-11, atol=1e-11, throw=False)
    return jaxode.odeint(both, start, ts, (field, cost, args), **settings).ys


def gradient(adjoint, uses, **settings):
    """Loss of the state, and of the costs as well where `uses`, and its gradient."""
    settings = dict(rtol=1e-8, atol=1e-8, max_steps=256, throw=False) | settings

    def loss(inputs):
        *problem, cost = inputs
        # The gradient of the cost's own arrays is in the backward error norm.
        cost = cost if uses else jax.lax.stop_gradient(cost)
        sol = jaxode.odeint(*problem, adjoint=adjoint, cost=cost, **settings)
        return weighted_sum((sol.ys, sol.cost) if uses else sol.ys), sol

    return quick_jit(jaxode.value_and_grad_with_stats(loss, has_aux=True))


@each_adjoint("backsolve")
@pytest.mark.parametrize("reverse", some_slow([False, True], False))
def test_costs_and_their_gradients_by_everything(x64, adjoint, reverse):
    inputs = arrays()
    if reverse:
        inputs = (*inputs[:2], inputs[2][::-1], *inputs[3:])

    def true_loss(inputs):
        both = truth(*inputs)
        return weighted_sum(both), both

    (_, sol), actual, _ = gradient(adjoint, True)(inputs)
    expected, both = quick_jit(jax.grad(true_loss, has_aux=True))(inputs)
    rows = jax.tree.map(lambda rows: rows[0], sol.cost)
    assert not any(np.any(row) for row in jax.tree.leaves(rows))
    assert relative_error((sol.ys, sol.cost), both) < 1e-6  # observed 2e-8
    assert relative_error(actual, expected) < 1e-6  # observed 5e-8


@each_adjoint("backsolve")
def test_steps_are_those_without_the_cost(x64, adjoint):
    """A cost in a thousandfold unit, which would rule any error norm it were in."""
    *problem, cost = arrays()
    large = eqx.tree_at(lambda c: c.weight, cost, 1e6)
    (_, plain), _, back = gradient(adjoint, False)((*problem, None))
    (_, sol), _, with_cost = gradient(adjoint, False)((*problem, large))
    assert sol.stats.num_steps == plain.stats.num_steps > 10
    assert sol.stats.nfe == plain.stats.nfe
    assert back.nfe == with_cost.nfe > 0
    np.testing.assert_array_equal(sol.ys, plain.ys)


@pytest.mark.parametrize("solver", some_slow([diffrax.Kvaerno3(), jaxode.RK4()]))
def test_cost_under_solvers_of_other_kinds(x64, solver):
    fixed = isinstance(solver, jaxode.RK4)
    steps: dict[str, Any] = dict(rtol=None, dt0=0.02) if fixed else dict(rtol=1e-6)
    *problem, cost = arrays()
    run = quick_jit(
        lambda cost: jaxode.odeint(*problem, solver=solver, cost=cost, **steps)
    )
    sol, plain = run(cost), run(None)
    assert sol.stats.num_steps == plain.stats.num_steps
    field, y0, ts, args = problem
    _, true_cost = truth(field, y0, ts, args, cost)
    assert relative_error(sol.cost, true_cost) < 1e-5  # observed 3e-8, 2e-6


def test_each_sample_of_a_batch_has_its_own_cost(x64):
    rates = jnp.array([0.5, 1.0, 3.0])
    run = lambda rate: jaxode.odeint(
        lambda t, y, a: -a * y, jnp.ones(()), [0.0, 1.0], rate, cost=lambda t, y, a: y
    )
    cost = quick_jit(jax.vmap(run))(rates).cost
    np.testing.assert_allclose(
        cost[:, -1], (1 - np.exp(-rates)) / rates, rtol=1e-3
    )  # observed 2e-5


# What it says to costs that are none


def solve(cost, **settings):
    settings = dict(cost=cost) | settings
    return jaxode.odeint(lambda t, y, a: -y, jnp.ones(2), [0.0, 0.5, 1.0], **settings)


class Changing:
    """Returns something else from the second call on."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, t, y, args):
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


@pytest.mark.parametrize(
    ("cost", "error", "match"),
    [
        (3, TypeError, "cost must be callable as .*; got 3"),
        (lambda t, y, a: (), ValueError, "which holds no number"),
        (lambda t, y, a: {"a": jnp.int32(1)}, TypeError, r"\['a'\] has dtype int32"),
        (lambda t, y, a: 1, TypeError, "has dtype int"),
        (Changing(jnp.ones(()), [jnp.ones(())]), ValueError, "same structure, shapes"),
        (Changing(jnp.ones(2), jnp.ones(3)), ValueError, "and f32.2. when it was"),
        (Changing(1.0, jnp.int32(1)), ValueError, "the same structure, shapes and dty"),
    ],
)
def test_cost_that_is_none_is_refused(cost, error, match):
    with unchecked_types(), pytest.raises(error, match=match):
        solve(cost)


def test_cost_that_is_nan_raises_and_says_where():
    cost = lambda t, y, args: jnp.log(0.97 - t)
    # The one step to the end is also what is read in between.
    match = r"integral of the cost up to t=.* is a NaN or infinite, and the state is n"
    with pytest.raises(jaxode.SolveError, match=match):
        solve(cost)
    with pytest.raises(RuntimeError, match=match):
        jax.block_until_ready(quick_jit(lambda: solve(cost).ys)())
    sol = solve(cost, throw=False)
    assert np.isfinite(sol.ys).all() and np.isnan(sol.cost[-1])


# Ready ones


class Mixing(eqx.Module):
    """f = tanh(y W), whose Jacobian is known: rows of a batch do not see each other."""

    weight: Any

    def __call__(self, t, y, args):
        return jnp.tanh(y @ self.weight)


def by_hand(field, y):
    f = np.tanh(np.asarray(y) @ np.asarray(field.weight))
    jacobian = (1 - f**2)[:, None, :] * np.asarray(field.weight)[None]
    return f, jacobian


def test_costs_are_what_they_say(x64, getkey):
    field = Mixing(jax.random.normal(getkey(), (3, 3)))
    y = jax.random.normal(getkey(), (4, 3))
    f, jacobian = by_hand(field, y)
    close = lambda actual, desired: np.testing.assert_allclose(
        actual, desired, rtol=1e-12
    )
    close(KineticEnergy(field)(0.0, y, None), np.sum(f**2))
    close(Divergence(field)(0.0, y, None), np.trace(jacobian, axis1=1, axis2=2))
    # Over all signs the estimates have the norm and the trace for their mean, exactly.
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), -1).reshape(-1, 1, 3)
    signs = jnp.asarray(np.broadcast_to(signs, (8, 4, 3)))
    norms = [JacobianNorm(field, s)(0.0, y, None) for s in signs]
    close(np.mean(norms), np.sum(jacobian**2))
    traces = [Divergence(field, s)(0.0, y, None) for s in signs]
    close(np.mean(traces, axis=0), np.trace(jacobian, axis1=1, axis2=2))


def test_density_of_a_linear_flow(x64, getkey):
    """dy/dt = y A: volumes grow by exp(t tr A), whatever the sample."""
    matrix = jax.random.normal(getkey(), (3, 3))
    field = lambda t, y, args: y @ args
    y0 = jax.random.normal(getkey(), (4, 3))

    def growth(matrix):
        cost = Divergence(field)
        sol = jaxode.odeint(field, y0, [0.0, 0.7], matrix, cost=cost, rtol=1e-6)
        return weighted_sum(sol.cost[-1]), sol.cost[-1]

    by_matrix, cost = quick_jit(jax.grad(growth, has_aux=True))(matrix)
    np.testing.assert_allclose(cost, 0.7 * np.trace(matrix), rtol=1e-12)  # 1e-15
    weights = weighted_sum(jnp.ones(4))
    np.testing.assert_allclose(by_matrix, 0.7 * weights * np.eye(3), atol=1e-12)
