"""Inputs u(t) that are interpolated between samples, handed over through `args`."""

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
    weighted_sum,
)

from jaxode import odeint
from jaxode.nn import ODEBlock


KNOTS = np.array([0.0, 0.4, 1.0, 1.7])
VALUES = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.2, -0.4]])
TS = np.array([0.1, 0.6, 1.5])
FINE: dict[str, Any] = dict(rtol=1e-9, atol=1e-9)


class Follows(eqx.Module):
    """dy/dt = rate * (u(t) - y)."""

    rate: Any

    def __call__(self, t, y, control):
        return self.rate * (control.evaluate(t) - y)


def piecewise_linear(knots, values):
    return diffrax.LinearInterpolation(knots, values)


def spline(knots, values):
    coefficients = diffrax.backward_hermite_coefficients(knots, values)
    return diffrax.CubicInterpolation(knots, coefficients)


def polynomials(control):
    """The coefficients of a control's pieces, in powers of the time since its knot."""
    if isinstance(control, diffrax.CubicInterpolation):
        d, c, b, a = control.coeffs
        return jnp.stack([a, b, c, d])
    slope = jnp.diff(control.ys, axis=0) / jnp.diff(control.ts)[:, None]
    return jnp.stack([control.ys[:-1], slope])


def exact(field, y0, ts, control):
    """The answer to a polynomial input is one more polynomial, and a decay.

    With p(s) = u(s) - p'(s)/rate, y(s) = p(s) + (y(0) - p(0)) exp(-rate s).
    """
    rate, knots = field.rate, control.ts
    pieces = polynomials(control)
    answers = [jnp.zeros_like(pieces[0])] * (len(pieces) + 1)
    for power in reversed(range(len(pieces))):
        answers[power] = pieces[power] - (power + 1) * answers[power + 1] / rate
    answer = jnp.stack(answers[:-1])

    def value(piece, s):
        return sum(answer[n, piece] * s**n for n in range(len(pieces)))

    def at(t):
        y = y0
        for piece in range(len(knots) - 1):
            start = jnp.clip(ts[0], knots[piece], knots[piece + 1])
            stop = jnp.clip(t, knots[piece], knots[piece + 1])
            own = [value(piece, end - knots[piece]) for end in (start, stop)]
            y = own[1] + (y - own[0]) * jnp.exp(-rate * (stop - start))
        return y

    return jax.vmap(at)(ts)


@each_adjoint("backsolve")
@pytest.mark.parametrize("interpolate", some_slow([piecewise_linear, spline], spline))
def test_gradient_by_the_values_of_an_interpolated_input(x64, adjoint, interpolate):
    field, y0 = Follows(jnp.array(1.4)), jnp.array([0.3, -0.2])
    knots, ts = jnp.asarray(KNOTS), jnp.asarray(TS)

    def loss(inputs, solve):
        field, y0, ts, values = inputs
        ys = solve(field, y0, ts, interpolate(knots, values))
        return weighted_sum(ys), ys

    def by_jaxode(*problem):
        # The slope of the input jumps at its knots.
        settings = FINE | dict(adjoint=adjoint, max_steps=256, throw=False)
        return odeint(*problem, jumps=knots, **settings).ys

    inputs = field, y0, ts, jnp.asarray(VALUES)
    both = jax.value_and_grad(loss, has_aux=True)
    (_, actual), grads = quick_jit(lambda i: both(i, by_jaxode))(inputs)
    (_, expected), true_grads = quick_jit(lambda i: both(i, exact))(inputs)
    assert relative_error(actual, expected) < 1e-7  # observed 6e-9
    assert relative_error(grads, true_grads) < 1e-7  # observed 1e-8


# Each sample its own


def batched(t, y, control):
    """Written for a batch of inputs, and so for a batch of one."""
    u = jax.vmap(lambda one: one.evaluate(t))(control["u"])
    return control["rate"] * (u - y)


def batch():
    values = jnp.stack([jnp.asarray(VALUES) * scale for scale in (1.0, -2.0, 0.5)])
    knots = jnp.broadcast_to(jnp.asarray(KNOTS), (3, 4))
    control = jax.vmap(piecewise_linear)(knots, values)
    return jnp.array([[0.3, -0.2]] * 3), {"u": control, "rate": jnp.array(1.4)}


def test_block_hands_out_the_inputs_by_sample(x64):
    y0, control = batch()
    block = ODEBlock(batched, per_sample=True, t1=1.5, jumps=KNOTS, **FINE)
    solution = quick_jit(lambda y0, args: block.solve(y0, args))(y0, control)
    assert len(set(np.asarray(solution.stats.num_steps).tolist())) > 1
    ts = jnp.array([0.0, 1.5])
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], control["u"])
        truth = exact(Follows(control["rate"]), y0[i], ts, one)
        np.testing.assert_allclose(solution.ys[:, i], truth, rtol=1e-7)  # 5e-9


@pytest.mark.slow
def test_field_of_a_batch_takes_what_a_block_hands_out(x64):
    y0, control = batch()
    block = ODEBlock(batched, t1=1.5, jumps=KNOTS, **FINE)
    apart = block.with_solve(per_sample=True)
    # One ODE for all and one for each differ within the tolerance: observed 2e-9.
    np.testing.assert_allclose(block(y0, control), apart(y0, control), rtol=1e-7)


def test_what_samples_share_is_said_by_args_axes(x64):
    field = lambda t, y, args: -args["own"] * y @ args["shared"]
    y0 = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    args = {"own": jnp.array([[0.5], [1.0]]), "shared": jnp.eye(2)}
    block = ODEBlock(field, per_sample=True, **FINE)
    y1 = block(y0, args, args_axes={"own": 0, "shared": None})
    np.testing.assert_allclose(y1, y0 * np.exp(-args["own"]), rtol=1e-7)  # 1e-9
    whole = ODEBlock(lambda t, y, rate: -rate * y, per_sample=True, **FINE)
    y1 = whole(y0, jnp.array([[0.5, 1.0]]), args_axes=None)
    np.testing.assert_allclose(y1, y0 * np.exp([[-0.5, -1.0]]), rtol=1e-7)  # 1e-9


def test_args_without_a_row_for_each_sample_are_refused():
    block = ODEBlock(lambda t, y, args: -args[0] * y, per_sample=True)
    y0, args = jnp.ones((3, 2)), (jnp.ones((2, 2)),)
    with pytest.raises(ValueError, match=r"args\[0\] has shape \(2, 2\).*3 samples"):
        block(y0, args)
    with pytest.raises(ValueError, match="args_axes=1: the batch is the first axis"):
        block(y0, args, args_axes=1)
