"""Fixed steps: how many, how long, and where they end."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from jaxode._steps.equal_steps import EqualSteps


def times_visited(ts: np.ndarray, longest: float, dtype: type) -> list[np.ndarray]:
    """Ends of all steps, by calling the controller as Diffrax's loop does."""
    sign = 1 if ts[-1] > ts[0] else -1
    controller = EqualSteps(longest, jnp.asarray(ts, dtype)).wrap(sign)
    t = sign * jnp.asarray(ts[0], dtype)
    t_next, state = controller.init(None, t, None, None, None, None, abs, None)
    visited = [np.asarray(sign * t)]
    adapt = eqx.filter_jit(controller.adapt_step_size)
    while t < sign * visited[0].dtype.type(ts[-1]):
        keep, t, t_next, _, state, result = adapt(
            t, t_next, None, jnp.zeros(()), None, None, None, state
        )
        assert keep and result == diffrax.RESULTS.successful
        visited.append(np.asarray(sign * t))
    return visited


CASES = [
    # 1 / 0.05 is 20 in exact arithmetic and 20.000001 in single precision.
    ([0.0, 1.0], 0.05, [20]),
    ([0.0, 1.0], 0.1, [10]),
    ([0.0, 0.3], 0.1, [3]),
    ([0.0, 0.7], 0.07, [10]),
    ([2.0, 3.0], 0.05, [20]),
    ([0.0, 1.0], 0.3, [4]),
    ([0.0, 1.0], 5.0, [1]),
    ([0.0, 0.25, 0.3, 1.0], 0.1, [3, 1, 7]),
    ([1.0, 0.0], 0.05, [20]),
    ([0.5, 0.2, -1.0], 0.25, [2, 5]),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("ts", "longest", "counts"), CASES)
def test_each_interval_has_the_fewest_equal_steps(x64, ts, longest, counts, dtype):
    ts = np.array(ts)
    visited = np.array(times_visited(ts, longest, dtype))
    ends = [int(np.flatnonzero(visited == dtype(t))[0]) for t in ts]
    assert np.diff(ends).tolist() == counts
    spans = np.abs(np.diff(ts))
    assert counts == [math.ceil(round(span / longest, 6)) for span in spans]
    expected = np.repeat(spans / counts, counts)
    error = np.max(np.abs(np.abs(np.diff(visited)) - expected))
    # Times are rounded, so lengths are to the spacing of the largest time: at most 1.
    assert error <= 2 * np.spacing(dtype(np.max(np.abs(ts))))


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
def test_odeint_takes_these_steps(sign):
    ts = sign * jnp.array([0.0, 0.5, 0.6, 2.0])
    field = lambda t, y, args: -y
    sol = jaxode.odeint(
        field, jnp.ones(2), ts, solver=diffrax.Euler(), rtol=None, dt0=sign * 0.2
    )
    assert sol.stats.num_steps == 3 + 1 + 7
    # The last interval's steps are 1.4 / 7; observed equal.
    assert abs(float(sol.stats.last_step) - 0.2) < 1e-7


def test_bound_on_the_steps_may_be_traced():
    field = lambda t, y, args: -y
    count = lambda dt0: (
        jaxode.odeint(
            field, jnp.ones(2), [0.0, 1.0], solver=jaxode.RK4(), rtol=None, dt0=dt0
        ).stats.num_steps
    )
    assert jax.jit(jax.vmap(count))(jnp.array([0.05, 0.3])).tolist() == [20, 4]


def test_step_that_is_not_finite_is_undone():
    field = lambda t, y, args: jnp.where(t > 0.55, jnp.inf, -y)
    sol = jaxode.odeint(
        field,
        jnp.ones(2),
        [0.0, 0.5, 1.0],
        solver=diffrax.Euler(),
        rtol=None,
        dt0=0.1,
        throw=False,
    )
    assert sol.result == diffrax.RESULTS.dt_min_reached
    # The step from 0.6 calls the field beyond 0.55; 0.6 is the last state there is.
    assert sol.stats.num_accepted_steps == 6 and sol.stats.num_rejected_steps == 1
    expected = np.array([1, 0.9**5, 0.9**6])[:, None] * np.ones(2)
    np.testing.assert_allclose(sol.ys, expected, rtol=1e-6)  # observed 1e-7


@pytest.mark.parametrize("ts", [[0.0, 0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0]])
def test_equal_times_have_no_step_between_them(ts):
    visited = times_visited(np.array(ts), 0.25, np.float32)
    np.testing.assert_array_equal(visited, [0.0, 0.25, 0.5, 0.75, 1.0])


def test_times_that_are_all_equal_have_a_next_time():
    controller = EqualSteps(0.25, jnp.array([1.0, 1.0, 1.0]))
    t_next, _ = controller.init(None, jnp.array(1.0), None, None, None, None, abs, None)
    assert t_next == 1
