"""`odeint` as a function: what comes back, in what type, and how often it compiles."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, relative_error, some_slow
from problems import PROBLEMS

import jaxode


DTYPES = [jnp.float32, jnp.float64, jnp.complex64, jnp.complex128]
decay = lambda t, y, args: jax.tree.map(jnp.negative, y)


@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
@pytest.mark.parametrize("dtype", some_slow(DTYPES, jnp.float32, jnp.complex128))
def test_solution_has_the_types_and_shapes_of_the_state(x64, dtype):
    seen = []

    def field(t, y, args):
        seen.append((t.dtype, y["a"][0].dtype, jnp.shape(y["b"])))
        return jax.tree.map(jnp.negative, y)

    y0 = {"a": (jnp.ones((2, 3), dtype),), "b": jnp.ones((), dtype)}
    real = jnp.finfo(dtype).dtype
    # The times follow the state, whatever they come in.
    sol = jaxode.odeint(field, y0, np.array([0.0, 0.5, 1.0]))
    assert sol.ys["a"][0].shape == (3, 2, 3) and sol.ys["b"].shape == (3,)
    assert sol.ys["a"][0].dtype == sol.ys["b"].dtype == dtype
    assert sol.ts.dtype == sol.stats.last_step.dtype == real
    assert set(seen) == {(real, np.dtype(dtype), ())}


def test_first_row_is_the_initial_state():
    y0 = jnp.array([0.1, 1e-30, 3e7])
    assert (jaxode.odeint(decay, y0, [1.0, 0.0]).ys[0] == y0).all()


def test_default_solver_is_dopri5():
    run = lambda **solver: jaxode.odeint(decay, jnp.ones(2), [0.0, 1.0], **solver).ys
    default = run()
    dopri5, tsit5 = run(solver=diffrax.Dopri5()), run(solver=diffrax.Tsit5())
    assert (default == dopri5).all() and not (default == tsit5).all()


def test_ten_jitted_gradients_trace_once():
    field, y0, ts, args = PROBLEMS["forced"].arrays(jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def gradient(y0, ts, rtol, dt0):
        def loss(y0, ts):
            sol = jaxode.odeint(
                field, y0, ts, args, rtol=rtol, dt0=dt0, adjoint="backsolve"
            )
            return sol.ys.sum()

        return jax.grad(loss, (0, 1))(y0, ts)

    for i in range(1, 11):
        gradient(i * y0, i * ts, 1e-3 / i, 0.01 * i)


@pytest.mark.parametrize("dt0", [None, 0.1])
def test_ten_eager_solves_compile_once(dt0):
    traces = []

    def field(t, y, args):
        traces.append(None)
        return -args * y

    for i in range(10):
        before = len(traces)
        y0, args = jnp.full(2, 1.0 + i), jnp.array(0.1 * i)
        jaxode.odeint(field, y0, [0.0, 1.0 + i], args, dt0=dt0)
        # A later call traces the field once, to check what it returns.
        assert i == 0 or len(traces) - before == 1


def test_arrays_of_the_field_may_be_traced_and_static_parts_kept():
    class Field(eqx.Module):
        rate: jax.Array
        activation: Any = jnp.tanh

        def __call__(self, t, y, args):
            return -self.rate * self.activation(y)

    @eqx.filter_jit
    def gradient(field):
        loss = lambda field: jaxode.odeint(
            field, jnp.ones(1), [0.0, 1.0], rtol=1e-5, adjoint="backsolve"
        ).ys[-1, 0]
        return eqx.filter_grad(loss)(field)

    # sinh(y) = sinh(1) exp(-rate), so dy/drate = -tanh(y).
    y = np.arcsinh(np.sinh(1) * np.exp(-2))
    rate_bar = gradient(Field(jnp.array(2.0))).rate
    np.testing.assert_allclose(rate_bar, -np.tanh(y), rtol=1e-3)  # observed 5e-5


def test_args_may_hold_what_is_no_array():
    field = lambda t, y, args: args["sign"] * args["f"](y) * args["n"]
    args = {"sign": -1.0, "f": jnp.sin, "n": jnp.array(2), "note": "text", "no": None}
    loss = lambda y0, adjoint: (
        jaxode.odeint(field, y0, [0.0, 1.0], args, adjoint=adjoint, rtol=1e-6)
        .ys[-1]
        .sum()
    )
    one, two = (
        jax.grad(loss)(jnp.ones(2), name) for name in ("backsolve", "checkpoint")
    )
    np.testing.assert_allclose(one, two, rtol=1e-4)  # observed 8e-6


def test_max_steps_may_be_unbounded():
    sol = jaxode.odeint(decay, jnp.ones(2), [0.0, 1.0], max_steps=None)
    assert sol.stats.success


def test_controller_replaces_the_tolerances(x64):
    field, y0, ts, args = PROBLEMS["forced"].arrays(jnp.float64)
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-7, pcoeff=0.2, icoeff=0.4)
    sol = jaxode.odeint(field, y0, ts, args, controller=controller)
    same = jaxode.odeint(field, y0, ts, args, rtol=1e-5, atol=1e-7)
    assert sol.stats.last_step != same.stats.last_step
    exact = PROBLEMS["forced"].exact(field, y0, ts, args)
    assert relative_error(sol.ys, exact) < 1e-4  # observed 2e-5


@pytest.mark.parametrize("reverse", some_slow([False, True], True))
def test_straight_line_changes_nothing_but_rounding(x64, reverse):
    problem = PROBLEMS["forced"].arrays(jnp.float64, reverse)
    runs = [
        quick_jit(
            lambda *problem, on=on: jaxode.odeint(
                *problem, unroll=on, rtol=1e-6, throw=False
            )
        )(*problem)
        for on in (True, False)
    ]
    assert runs[0].stats.num_steps == runs[1].stats.num_steps
    assert relative_error(runs[0].ys, runs[1].ys) < 1e-13  # observed 5e-16
