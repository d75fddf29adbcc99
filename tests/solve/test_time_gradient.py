"""Gradients with respect to the times: against differences, and what they cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    Counting,
    Counts,
    counts_every_call,
    each_adjoint,
    quick_jit,
    relative_error,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode


FORCED = PROBLEMS["forced"]
TIGHT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10)


def loss(field, y0, ts, args, **settings):
    return weighted_sum(jaxode.odeint(field, y0, ts, args, **settings).ys)


def test_gradients_of_the_times_equal_finite_differences(x64):
    field, y0, ts, args = FORCED.arrays(jnp.float64)
    run = quick_jit(lambda ts: loss(field, y0, ts, args, **TIGHT))
    actual = quick_jit(jax.grad(lambda ts: loss(field, y0, ts, args, **TIGHT)))(ts)
    step = 1e-5
    moved = step * jnp.eye(len(ts))
    expected = jnp.stack([(run(ts + d) - run(ts - d)) / (2 * step) for d in moved])
    # Truncation is of the order of step**2 = 1e-10, rounding 1e-10 / step = 1e-5 of
    # the solve's error, which is smooth in the times and so mostly cancels.
    assert relative_error(actual, expected) < 1e-5


@counts_every_call
@each_adjoint("backsolve")
def test_field_is_called_once_for_each_time_that_is_differentiated(adjoint):
    counts = Counts()
    field, y0, ts, args = FORCED.arrays(jnp.float32)
    counting = Counting(field, counts)
    run = lambda y0, ts: loss(counting, y0, ts, args, adjoint=adjoint)
    by_state = quick_jit(jax.grad(run, argnums=0))
    by_both = quick_jit(jax.grad(run, argnums=(0, 1)))
    by_state(y0, ts)
    without, _ = counts.read()
    by_both(y0, ts)
    with_times, _ = counts.read()
    # At the initial time once for the start, and once at each of the others.
    assert with_times - without == len(ts)


def test_values_do_not_change_where_times_are_differentiated():
    field, y0, ts, args = FORCED.arrays(jnp.float32)
    run = lambda ts: jaxode.odeint(field, y0, ts, args).ys
    plain = run(ts)
    primal, _ = jax.vjp(run, ts)
    np.testing.assert_array_equal(primal, plain)


def test_second_derivative_by_the_times_is_refused():
    decay = lambda t, y, a: -a * y

    def at(end):
        ts = jnp.stack([jnp.zeros_like(end), end])
        settings: dict[str, Any] = dict(adjoint="direct", max_steps=64, throw=False)
        return jaxode.odeint(decay, jnp.array(1.0), ts, 0.7, **settings).ys[-1]

    with pytest.raises(ValueError, match="differentiated twice.*make the times argum"):
        jax.grad(jax.grad(at))(jnp.array(1.3))
