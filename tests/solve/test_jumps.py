"""Fields that jump: where they are asked, and what comes out."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import each_adjoint, quick_jit, relative_error, some_slow, weighted_sum

import jaxode


JUMPS = np.array([0.5, 1.25])
ADAPTIVE: dict[str, Any] = dict(rtol=1e-9, atol=1e-9)
FIXED: dict[str, Any] = dict(rtol=None, dt0=0.05)


class Stepped(eqx.Module):
    """dy/dt = A y + u(t), where u is another constant between any two jumps."""

    matrix: Any

    def __call__(self, t, y, args):
        jumps, inputs = args
        return self.matrix @ y + inputs[jnp.sum(t > jumps)]


def exact(field, y0, ts, args):
    """Piece by piece; each one is a linear system with a constant input."""
    jumps, inputs = args
    edges = jnp.concatenate([ts[:1], jumps])

    def at(t):
        y = y0
        for i in range(len(edges)):
            later = edges[i + 1] if i + 1 < len(edges) else jnp.inf
            span = jnp.clip(t, edges[i], later) - edges[i]
            rest = jnp.linalg.solve(field.matrix, inputs[i])
            y = jax.scipy.linalg.expm(field.matrix * span) @ (y + rest) - rest
        return y

    return jax.vmap(at)(ts)


def problem(dtype=jnp.float64):
    ts = np.array([0.1, 0.3, 0.8, 1.9])
    matrix = np.array([[-0.4, 1.1], [-0.9, 0.2]])
    inputs = np.array([[1.0, 0.0], [-2.0, 1.0], [0.5, -1.5]])
    arrays = Stepped(matrix), np.array([0.4, -0.2]), ts, (JUMPS, inputs)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)


def solve(problem, **settings):
    field, y0, ts, args = problem
    return jaxode.odeint(field, y0, ts, args, jumps=JUMPS, throw=False, **settings)


@each_adjoint("discrete")
@pytest.mark.parametrize("steps", some_slow([ADAPTIVE, FIXED], ADAPTIVE))
def test_steps_in_the_input_give_the_exact_values_and_gradients(x64, adjoint, steps):
    def loss(problem):
        sol = solve(problem, adjoint=adjoint, max_steps=256, **steps)
        return weighted_sum(sol.ys), sol

    def true_loss(problem):
        ys = exact(*problem)
        return weighted_sum(ys), ys

    both = lambda f: quick_jit(jax.value_and_grad(f, has_aux=True))
    (_, sol), actual = both(loss)(problem())
    (_, ys), expected = both(true_loss)(problem())
    assert sol.stats.success
    # The start of a piece is a gradient of the exact solution alone.
    actual, expected = (g[:3] + (g[3][1],) for g in (actual, expected))
    # Observed 3e-9 in the values, 9e-9 in the gradients.
    assert relative_error(sol.ys, ys) < 1e-7
    assert relative_error(actual, expected) < 1e-7


def cubics(t, y, args):
    """Between jumps a polynomial that a method of order four integrates exactly."""
    piece = jnp.sum(t > jnp.asarray(JUMPS, t.dtype))
    return jnp.array([1.0, -8.0, 30.0], t.dtype)[piece] * t**3 + 0 * y


def integral_of_cubics(ts):
    edges = np.array([-np.inf, *JUMPS, np.inf])
    total = 0.0
    for low, high, factor in zip(edges, edges[1:], [1.0, -8.0, 30.0], strict=False):
        total = total + factor / 4 * (
            np.clip(ts, low, high) ** 4 - np.clip(ts[0], low, high) ** 4
        )
    return total


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("adjoint", some_slow(["discrete", "checkpoint"], "discrete"))
def test_one_call_on_the_wrong_side_would_show(x64, adjoint, reverse):
    """Read-outs at both jumps, and one at each end of the solve, in turns."""
    settings: dict[str, Any] = dict(solver=jaxode.RK4(), rtol=None, max_steps=32)
    settings["dt0"] = -0.2 if reverse else 0.2

    @quick_jit
    def solve(ts):
        return jaxode.odeint(
            cubics, jnp.zeros(()), ts, jumps=JUMPS[::-1], adjoint=adjoint, **settings
        ).ys

    for times in ([0.0, 0.5, 1.25, 2.0], [0.5, 0.7, 0.9, 1.25]):
        ts = np.array(times[::-1] if reverse else times)
        # Observed 4e-15. One stage on the other side costs 1e-1.
        np.testing.assert_allclose(solve(ts), integral_of_cubics(ts), atol=1e-13)


SOLVERS = {
    "dopri5": {},
    "as_it_is": dict(unroll=False),
    "kvaerno3": dict(solver=diffrax.Kvaerno3()),
    "rk4": dict(solver=jaxode.RK4(), rtol=None),
}


@pytest.mark.parametrize("adjoint", some_slow(["backsolve", "checkpoint"], "backsolve"))
@pytest.mark.parametrize("solver", some_slow(SOLVERS, "dopri5", "rk4"))
def test_field_is_never_asked_at_a_jump(adjoint, solver):
    """Forwards and backwards, with jumps at both ends and at a read-out."""
    asked = []

    def field(t, y, args):
        jax.debug.callback(lambda t: asked.append(float(t)), t)
        return -args * y

    jumps = jnp.array([0.0, 0.5, 1.0])
    settings = SOLVERS[solver] | dict(adjoint=adjoint, max_steps=64, throw=False)

    def loss(y0, ts, args):
        dt0 = 0.2 * (ts[-1] - ts[0]) if solver == "rk4" else None
        sol = jaxode.odeint(field, y0, ts, args, jumps=jumps, dt0=dt0, **settings)
        return weighted_sum(sol.ys), sol.stats

    ts, number = jnp.array([0.0, 0.5, 1.0]), jnp.float32(0.7)
    compute = quick_jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    for times in (ts, ts[::-1]):
        asked.clear()
        (_, stats), _ = jax.block_until_ready(compute(number, times, number))
        jax.effects_barrier()
        assert stats.success and len(asked) > 10
        assert min(asked) > 0 and max(asked) < 1 and 0.5 not in asked


def test_jumps_may_be_traced_and_each_sample_may_have_its_own(x64):
    """The rows of the batch jump elsewhere; infinity stands for no jump."""
    field = lambda t, y, jumps: jnp.sum(jnp.where(t > jumps, 1.0, 0.0)) + 0 * y
    jumps = jnp.array([[0.25, 0.5], [0.9, jnp.inf], [-1.0, jnp.inf]])

    @quick_jit
    @jax.vmap
    def run(jumps):
        ts = jnp.array([0.0, 1.0])
        sol = jaxode.odeint(field, jnp.zeros(()), ts, jumps, jumps=jumps)
        return sol.ys[-1], sol.stats

    ys, stats = run(jumps)
    np.testing.assert_allclose(ys, [1.25, 0.1, 1.0], rtol=1e-14)  # observed 2e-16
    assert stats.num_rejected_steps.sum() == 0


def test_counts_of_field_calls_are_right_with_jumps():
    asked = []

    def field(t, y, args):
        jax.debug.callback(lambda y: asked.append(None), y)
        return -y

    ways: list[dict[str, Any]] = [dict(rtol=1e-4), dict(rtol=None, dt0=0.2)]
    for settings in ways:
        asked.clear()
        solve = lambda y0, s=settings: jaxode.odeint(
            field, y0, [0.0, 1.0, 2.0], jumps=JUMPS, throw=False, **s
        )
        stats = quick_jit(solve)(jnp.float32(1.0)).stats
        jax.effects_barrier()
        assert len(asked) == stats.nfe


def test_derivative_by_the_time_of_a_jump_in_two_pieces(x64):
    """A push that sets in at s: y(1) = y0 exp(-1) + 1 - exp(s - 1)."""
    field = lambda t, y, s: -y + jnp.where(t > s, 1.0, 0.0)

    @quick_jit
    @jax.grad
    def gradient(s):
        settings: dict[str, Any] = ADAPTIVE | dict(jumps=jax.lax.stop_gradient(s))
        fixed = jax.lax.stop_gradient(s)
        ts = jnp.array([0.0, 1.0])
        y = jnp.array(0.3)
        for start, end in ((ts[0], s), (s, ts[1])):
            times = jnp.stack([start, end])
            y = jaxode.odeint(field, y, times, fixed, **settings).ys[-1]
        return y

    # Observed 2e-10.
    np.testing.assert_allclose(gradient(0.4), -np.exp(-0.6), rtol=1e-8)


def test_solve_that_starts_late_over_pulses_sees_every_one(x64):
    """Doses, each a pulse of a hundredth: a controller alone steps over them."""
    starts = np.arange(1.0, 6.0)
    edges = np.concatenate([starts, starts + 0.01])

    def field(t, y, args):
        on = jnp.any((t > starts) & (t < starts + 0.01))
        return jnp.where(on, 100.0, 0.0) - args * y

    run = lambda **kw: jaxode.odeint(field, jnp.zeros(()), [0.0, 6.0], 0.5, **kw)
    # Each dose decays from when it was given.
    truth = np.sum(
        100 / 0.5 * (np.exp(-0.5 * (5.99 - starts)) - np.exp(-0.5 * (6 - starts)))
    )
    right = run(jumps=edges, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(right.ys[-1], truth, rtol=1e-7)  # observed 2e-9
    assert abs(run().ys[-1] / truth - 1) > 0.1  # it misses all of them


BAD = {
    "integers": (jnp.array([1]), TypeError, "jumps must be floating-point.*int32"),
    "words": ("soon", TypeError, "jumps must be floating-point times; got 'soon'"),
    "nan": (jnp.array([0.5, jnp.nan]), ValueError, "jumps holds a NaN"),
    "matrix": (jnp.ones((2, 2)), ValueError, r"jumps has shape \(2, 2\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_jumps_are_refused(case):
    jumps, error, match = BAD[case]
    with pytest.raises(error, match=match):
        jaxode.odeint(lambda t, y, a: -y, jnp.ones(2), [0.0, 1.0], jumps=jumps)


def test_jumps_that_are_differentiated_are_refused():
    def end(s):
        field = lambda t, y, s: -y + (t > s)
        return jaxode.odeint(field, jnp.ones(()), [0.0, 1.0], s, jumps=s).ys[-1]

    with pytest.raises(ValueError, match="jumps are differentiated.*two pieces"):
        jax.grad(end)(jnp.array(0.5))


def test_solver_that_looks_beyond_its_steps_is_refused_with_jumps():
    with pytest.raises(ValueError, match="Kvaerno5 asks the field beyond.*Kvaerno3"):
        jaxode.odeint(
            lambda t, y, a: -y,
            jnp.ones(2),
            [0.0, 1.0],
            solver=diffrax.Kvaerno5(),
            jumps=[0.5],
        )


@each_adjoint("discrete")
def test_traced_nan_among_the_jumps_is_no_success(adjoint):
    def run(jumps, throw):
        settings: dict[str, Any] = dict(adjoint=adjoint, max_steps=64, throw=throw)
        field = lambda t, y, a: -y
        sol = jaxode.odeint(field, jnp.ones(2), [0.0, 1.0], jumps=jumps, **settings)
        return sol.stats.success

    run = quick_jit(run, static_argnums=1)
    assert not run(jnp.array([0.5, jnp.nan]), False)
    if adjoint == "discrete":
        with pytest.raises(RuntimeError, match="jumps holds a NaN"):
            jax.block_until_ready(run(jnp.array([0.5, jnp.nan]), True))


def test_jumps_outside_of_the_times_change_nothing():
    field = lambda t, y, a: -y
    run = quick_jit(
        lambda jumps: jaxode.odeint(field, jnp.ones(2), [0.0, 1.0], jumps=jumps)
    )
    without = jaxode.odeint(field, jnp.ones(2), [0.0, 1.0])
    for jumps in ([-3.0, 7.0], [jnp.inf, -jnp.inf]):
        sol = run(jnp.array(jumps))
        assert sol.stats.num_steps == without.stats.num_steps
        np.testing.assert_allclose(sol.ys, without.ys, rtol=1e-6)  # observed 1e-7


def test_first_step_is_tried_before_the_first_jump():
    """Alone, Hairer's rule would look a hundredth of a unit ahead."""
    asked = []

    def field(t, y, args):
        jax.debug.callback(lambda t: asked.append(float(t)), t)
        return -y

    run = lambda y0: jaxode.odeint(field, y0, [0.0, 1.0], jumps=[1e-3], throw=False)
    jax.block_until_ready(quick_jit(run)(jnp.float32(1.0)))
    jax.effects_barrier()
    # The call at the start, Hairer's second one, and the first step's six.
    assert max(asked[:8]) < 1e-3 < asked[9]
