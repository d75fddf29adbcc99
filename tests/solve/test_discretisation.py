"""What is continuous against what is discrete: the two posts' central remarks."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    ADJOINTS,
    each_adjoint,
    quick_jit,
    relative_error,
    some_slow,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode


# Those that differentiate the steps that were taken.
DISCRETE = [adjoint for adjoint in ADJOINTS if adjoint != "backsolve"]


def euler(field, y0, args, t0, t1, steps):
    """`y <- y + h f(t, y)`: a ResidualNet of `steps` tied blocks, scaled by h."""
    h = (t1 - t0) / steps
    y = y0
    for i in range(steps):
        change = field(t0 + i * h, y, args)
        y = jax.tree.map(lambda y, f: y + h * f, y, change)
    return y


@pytest.mark.parametrize("adjoint", DISCRETE)
@pytest.mark.parametrize("steps", some_slow([1, 7, 20], 7))
def test_euler_is_a_resnet_of_tied_blocks(x64, adjoint, steps):
    field, y0, _, args = PROBLEMS["forced"].arrays(jnp.float64)
    ts = jnp.array([0.2, 1.2])

    def continuous(field, y0, args):
        ys = jaxode.odeint(
            field,
            y0,
            ts,
            args,
            solver=diffrax.Euler(),
            adjoint=adjoint,
            rtol=None,
            dt0=1 / steps,
            max_steps=32,
        ).ys
        return weighted_sum(ys[-1])

    def discrete(field, y0, args):
        return weighted_sum(euler(field, y0, args, 0.2, 1.2, steps))

    both = lambda f: quick_jit(jax.value_and_grad(f, argnums=(0, 1, 2)))
    actual = both(continuous)(field, y0, args)
    expected = both(discrete)(field, y0, args)
    # Rounding of 20 steps in double precision.
    assert relative_error(actual, expected) < 1e-13


@pytest.mark.parametrize("h_max", some_slow([0.05, 0.3], 0.3))
def test_second_post_in_closed_form(x64, h_max):
    """For f = kz: z(1), its derivative, and the state reversed by the adjoint."""
    k, n = 0.8, int(np.ceil(1 / h_max))
    h = 1 / n

    def end(z0):
        return jaxode.odeint(
            lambda t, z, k: k * z,
            z0,
            jnp.array([0.0, 1.0]),
            k,
            solver=diffrax.Euler(),
            adjoint="backsolve",
            rtol=None,
            dt0=h_max,
        ).ys[-1]

    z1, by_z0, stats = jaxode.value_and_grad_with_stats(end)(jnp.array(1.0))
    np.testing.assert_allclose(z1, (1 + h * k) ** n, rtol=1e-14)
    np.testing.assert_allclose(by_z0, (1 + h * k) ** n, rtol=1e-14)
    reversed_state = (1 + h * k) ** n * (1 - h * k) ** n
    # The statistic is in single precision.
    np.testing.assert_allclose(
        stats.reconstruction_error, 1 - reversed_state, rtol=1e-5
    )


def augmented_adjoint(field, y0, args, t0, t1, y1_bar, steps):
    """The second post's derivation, by hand, with classical Runge-Kutta steps.

    One copy of every parameter, and the signs of Chen et al. 2018, eqs. 3 to 5.
    """

    def forward(t, y):
        return field(t, y, args)

    def backward(t, state):
        y, a, *_ = state
        f, vjp = jax.vjp(lambda y, field, args, t: field(t, y, args), y, field, args, t)
        return (f, *(jax.tree.map(jnp.negative, bar) for bar in vjp(a)))

    def rk4(f, t0, t1, y):
        h = (t1 - t0) / steps
        move = lambda y, k, c: jax.tree.map(lambda y, k: y + c * k, y, k)

        def step(y, i):
            t = t0 + i * h
            k1 = f(t, y)
            k2 = f(t + h / 2, move(y, k1, h / 2))
            k3 = f(t + h / 2, move(y, k2, h / 2))
            k4 = f(t + h, move(y, k3, h))
            for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
                y = move(y, k, weight * h / 6)
            return y, None

        return jax.lax.scan(step, y, jnp.arange(steps, dtype=jnp.float64))[0]

    y1 = rk4(forward, t0, t1, y0)
    zeros = jax.tree.map(jnp.zeros_like, (field, args))
    end_bar = jnp.vdot(y1_bar, forward(t1, y1))
    state = (y1, y1_bar, *zeros, -end_bar)
    _, y0_bar, field_bar, args_bar, t0_bar = rk4(backward, t1, t0, state)
    return field_bar, y0_bar, jnp.stack([t0_bar, end_bar]), args_bar


@each_adjoint("backsolve")
def test_gradients_are_those_of_an_adjoint_written_by_hand(x64, adjoint):
    field, y0, ts, args = PROBLEMS["forced"].arrays(jnp.float64)
    ts = ts[jnp.array([0, -1])]
    y1_bar = jnp.array([1.3, -0.4])

    def ours(field, y0, ts, args):
        tight: dict[str, Any] = dict(rtol=1e-11, atol=1e-11)
        sol = jaxode.odeint(field, y0, ts, args, adjoint=adjoint, **tight)
        return jnp.vdot(y1_bar, sol.ys[-1])

    actual = quick_jit(jax.grad(ours, argnums=(0, 1, 2, 3)))(field, y0, ts, args)
    expected = quick_jit(augmented_adjoint, static_argnums=6)(
        field, y0, args, ts[0], ts[1], y1_bar, 400
    )
    # 400 steps of order four: 1e-10 of the scale of the problem.
    assert relative_error(actual, expected) < 1e-8
