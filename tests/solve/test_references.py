"""`odeint` against what shares no code with it: JAX's own, SciPy, differences."""

from typing import Any

import diffrax
import jax
import jax.experimental.ode
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from helpers import (
    each_adjoint,
    quick_jit,
    relative_error,
    some_slow,
    values_and_gradients,
    weighted_sum,
)
from problems import PROBLEMS
from sklearn.datasets import load_digits

import jaxode
from jaxode._jax_versions import enable_x64


@each_adjoint("backsolve", "discrete")
def test_values_and_gradients_are_those_of_jax_experimental_ode(x64, adjoint):
    field, *rest = PROBLEMS["forced"].arrays(jnp.float64)

    def theirs(matrix, y0, ts, args):
        f = lambda y, t, matrix, args: type(field)(matrix)(t, y, args)
        return jax.experimental.ode.odeint(
            f, y0, ts, matrix, args, rtol=1e-10, atol=1e-10
        )

    def ours(matrix, *rest):
        settings = dict(adjoint=adjoint, rtol=1e-10, atol=1e-10, max_steps=512)
        return jaxode.odeint(type(field)(matrix), *rest, throw=False, **settings).ys

    run = lambda solve: values_and_gradients(solve)(field.matrix, *rest)
    # Field, state, all of `ts` and `args`. Observed at most 2e-9.
    assert relative_error(run(ours), run(theirs)) < 1e-8


class VanDerPol:
    """A forced Van der Pol oscillator, for both libraries."""

    y0 = np.array([1.2, 0.4])
    args = np.array([1.5, 0.8, 2.0])
    ts = np.array([0.0, 0.6, 1.1, 2.0])

    @staticmethod
    def field(t, y, args, np=jnp):
        damping, strength, frequency = args
        drive = strength * np.cos(frequency * t)
        return np.stack([y[1], damping * (1 - y[0] ** 2) * y[1] - y[0] + drive])

    @classmethod
    def by_scipy(cls, y0: Any, ts: Any, args: Any) -> np.ndarray:
        solution = scipy.integrate.solve_ivp(
            lambda t, y: cls.field(t, y, args, np=np),
            (ts[0], ts[-1]),
            y0,
            method="DOP853",
            t_eval=ts,
            rtol=1e-12,
            atol=1e-12,
        )
        return solution.y.T


SOLVERS = [diffrax.Dopri5, diffrax.Dopri8, diffrax.Kvaerno5]


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("solver", some_slow(SOLVERS, diffrax.Dopri8))
def test_values_are_those_of_scipy(x64, solver, reverse):
    ts = VanDerPol.ts[::-1] if reverse else VanDerPol.ts
    expected = VanDerPol.by_scipy(VanDerPol.y0, ts, VanDerPol.args)
    sol = jaxode.odeint(
        VanDerPol.field,
        VanDerPol.y0,
        ts,
        VanDerPol.args,
        solver=solver(),
        rtol=1e-9,
        atol=1e-9,
    )
    # Observed at most 4e-8 (Kvaerno5).
    assert relative_error(np.asarray(sol.ys), expected) < 3e-7


def differences(function: Any, x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Central differences of order four, one entry at a time."""
    out = np.zeros_like(x)
    for i in range(x.size):
        at = lambda k, i=i: function(np.array([*x[:i], x[i] + k * step, *x[i + 1 :]]))
        out[i] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    return out


@pytest.fixture(scope="module")
def gradients_by_scipy() -> tuple[np.ndarray, ...]:
    """Differences of SciPy's solution, by state, times and arguments."""
    y0, ts, args = VanDerPol.y0, VanDerPol.ts, VanDerPol.args
    weights = 1 + np.sin(np.arange(8.0)).reshape(4, 2)
    loss = lambda *inputs: np.sum(weights * VanDerPol.by_scipy(*inputs))
    return (
        differences(lambda y0: loss(y0, ts, args), y0),
        differences(lambda ts: loss(y0, ts, args), ts),
        differences(lambda args: loss(y0, ts, args), args),
    )


@each_adjoint("discrete")
def test_gradients_are_finite_differences_of_scipy(x64, adjoint, gradients_by_scipy):
    def loss(inputs):
        settings = dict(adjoint=adjoint, rtol=1e-10, atol=1e-10, max_steps=512)
        return weighted_sum(
            jaxode.odeint(VanDerPol.field, *inputs, throw=False, **settings).ys
        )

    inputs = (VanDerPol.y0, VanDerPol.ts, VanDerPol.args)
    actual = quick_jit(jax.grad(loss))(jax.tree.map(jnp.asarray, inputs))
    # Observed at most 2e-8, of which the differences are 1e-9.
    assert relative_error(jax.tree.map(np.asarray, actual), gradients_by_scipy) < 2e-7


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    """The field of the first post on real digits, six channels of their pixels."""
    with enable_x64(True):
        field = jaxode.nn.ConvField(6, key=jax.random.key(0), activation="softplus")
        field = jax.tree.map(lambda x: x.astype(jnp.float64), field)
        source: Any = load_digits()
        images = jnp.asarray(source.images[:2]) / 16
        mix = jax.random.normal(jax.random.key(1), (6,), jnp.float64)
        return field, mix[None, :, None, None] * images[:, None]


def digits_loss(adjoint: str) -> Any:
    def loss(inputs):
        field, y0 = inputs
        settings: dict[str, Any] = dict(adjoint=adjoint, rtol=1e-8, atol=1e-8)
        settings |= dict(max_steps=256)
        sol = jaxode.odeint(field, y0, [0.0, 1.0], throw=False, **settings)
        return weighted_sum(sol.ys)

    return quick_jit(jax.value_and_grad(loss))


@pytest.mark.slow
@each_adjoint("discrete")
def test_gradients_of_the_convolution_field_are_finite_differences(
    x64, adjoint, digits
):
    run = digits_loss(adjoint)
    _, gradients = run(digits)
    leaves, treedef = jax.tree.flatten(digits)
    directions = [
        jnp.cos(jnp.arange(x.size) + i).reshape(x.shape) for i, x in enumerate(leaves)
    ]
    direction = treedef.unflatten(directions)
    moved = lambda h: jax.tree.map(lambda x, d: x + h * d, digits, direction)
    h = 1e-4
    at = lambda k: float(run(moved(k * h))[0])
    expected = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
    products = jax.tree.map(jnp.vdot, gradients, direction)
    actual = float(sum(jax.tree.leaves(products)))
    assert abs(actual / expected - 1) < 1e-5
