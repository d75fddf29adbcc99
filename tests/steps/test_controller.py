"""First steps by Hairer's rule, what the controller sees, and where it gives up."""

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
from jaxode._steps.controller import StepHistory


RTOL, ATOL = 1e-4, 1e-5
PID = diffrax.PIDController(rtol=RTOL, atol=ATOL)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def hairer(field: Any, t0: float, y0: np.ndarray, sign: int, order: int) -> float:
    """Hairer, Norsett & Wanner, Solving ODEs I, II.4, steps (a) to (f), in NumPy."""
    scale = ATOL + RTOL * np.abs(y0)
    f0 = field(t0, y0)
    d0, d1 = rms(y0 / scale), rms(f0 / scale)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    f1 = field(t0 + sign * h0, y0 + sign * h0 * f0)
    d2 = rms((f1 - f0) / scale) / h0
    if max(d1, d2) <= 1e-15:
        h1 = max(1e-6, 1e-3 * h0)
    else:
        h1 = (0.01 / max(d1, d2)) ** (1 / order)
    return min(100 * h0, h1)


def solve(field: Any, y0: Any, ts: Any, controller: Any, **settings: Any) -> Any:
    """Plain Diffrax, saving every step."""

    @quick_jit
    def run(y0, ts):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            ts[0],
            ts[1],
            y0=y0,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(steps=True),
            **{"dt0": None, "max_steps": 64, **settings},
        )

    y0 = jnp.asarray(y0)
    return run(y0, jnp.asarray(ts, y0.dtype))


def first_step(solution: diffrax.Solution) -> float:
    assert solution.ts is not None and solution.t0 is not None
    return abs(float(solution.ts[0] - solution.t0))


def turning(t, y, args):
    return jnp.stack([jnp.sin(t) * y[1], -2 * y[0]])


def turning_numpy(t, y):
    return np.array([np.sin(t) * y[1], -2 * y[0]])


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
@pytest.mark.parametrize(
    "y0",
    # The second has a zero state, the third a zero field at the start.
    [[1.0, -0.5], [0.0, 0.0], [0.0, 1.0]],
    ids=["ordinary", "zero_state", "zero_field"],
)
def test_first_step_is_hairers(x64, y0, sign):
    # At t = 0 the field is (0, -2 y[0]).
    solution = solve(turning, y0, [0.0, 3.0 * sign], jaxode.InitialStep(PID))
    expected = hairer(turning_numpy, 0.0, np.array(y0), sign, order=5)
    # Observed at most 4e-16.
    assert abs(first_step(solution) / expected - 1) < 1e-12


def test_first_step_takes_fewer_steps_than_diffrax_alone(x64):
    slow = lambda t, y, args: 0.1 * turning(t, y, args)
    steps = lambda controller: int(
        solve(slow, [1.0, -0.5], [0.0, 3.0], controller).stats["num_steps"]
    )
    assert steps(jaxode.InitialStep(PID)) < steps(PID)  # observed 3 and 4


def test_diffrax_alone_starts_at_one_hundredth(x64):
    solution = solve(turning, [1.0, -0.5], [0.0, 3.0], PID)
    assert abs(first_step(solution) - 0.01) < 1e-15, (
        "Diffrax now chooses the first step itself: see whether jaxode.InitialStep, "
        "and the two field calls that odeint counts for it, are still needed."
    )


@pytest.mark.parametrize("sign", some_slow([1, -1], -1))
@pytest.mark.parametrize(
    ("controller", "dt0"),
    [(jaxode.InitialStep(PID, length=0.125), None), (jaxode.InitialStep(PID), 0.125)],
    ids=["length", "dt0"],
)
def test_first_step_is_the_given_one(x64, controller, dt0, sign):
    dt0 = None if dt0 is None else sign * dt0
    ts = [0.0, 3.0 * sign]
    solution = solve(turning, [1.0, -0.5], ts, controller, dt0=dt0)
    assert first_step(solution) == 0.125


def test_first_step_uses_the_field_value_it_is_given(x64):
    y0 = np.array([1.0, -0.5])
    f0 = np.array([7.0, 3.0])
    controller = jaxode.InitialStep(PID, f0=jnp.asarray(f0))
    solution = solve(turning, y0, [0.0, 3.0], controller)
    pretended = lambda t, y: f0 if t == 0 else turning_numpy(t, y)
    expected = hairer(pretended, 0.0, y0, 1, order=5)
    assert abs(first_step(solution) / expected - 1) < 1e-12  # observed 2e-16


def test_first_step_keeps_the_tolerances_of_an_implicit_solver(x64):
    # The root finder takes its tolerances from the controller.
    field, y0, ts, args = PROBLEMS["forced"].arrays(jnp.float64)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Kvaerno3(),
        ts[0],
        ts[1],
        dt0=None,
        y0=y0,
        args=args,
        stepsize_controller=jaxode.InitialStep(PID),
    )
    assert solution.ys is not None
    expected = PROBLEMS["forced"].exact(field, y0, ts, args)[1]
    assert relative_error(solution.ys[0], expected) < 1e-3  # observed 1.4e-5


def test_initial_step_changes_no_later_step(x64):
    field, y0, ts, _ = PROBLEMS["rotation"].arrays(jnp.float64)
    ends = ts[jnp.array([0, -1])]
    one, two = (
        solve(field, y0, ends, c, dt0=0.9) for c in (PID, jaxode.InitialStep(PID))
    )
    assert int(one.stats["num_rejected_steps"]) > 0
    assert jnp.array_equal(one.ts, two.ts)


def test_history_records_what_happened(x64):
    field, y0, ts, _ = PROBLEMS["rotation"].arrays(jnp.float64)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        ts[0],
        ts[-1],
        dt0=0.9,
        y0=y0,
        stepsize_controller=jaxode.InitialStep(PID),
        saveat=diffrax.SaveAt(steps=True, controller_state=True),
        max_steps=64,
    )
    assert solution.ts is not None
    taken = solution.ts[jnp.isfinite(solution.ts)]
    history = solution.controller_state
    assert isinstance(history, StepHistory)
    # Observed equal.
    assert abs(float(history.last_step - (taken[-1] - taken[-2]))) < 1e-15
    assert history.rejected_at_start == solution.stats["num_rejected_steps"] == 1
    assert not history.non_finite


def test_initial_step_ends_a_solve_whose_step_underflows(x64):
    field = lambda t, y, args: jnp.where(t > 0.5, jnp.nan, -y)
    run = lambda controller: solve(
        field, [1.0], [0.0, 1.0], controller, dt0=0.1, throw=False, max_steps=512
    )
    assert run(PID).result == diffrax.RESULTS.max_steps_reached
    ended = run(jaxode.InitialStep(PID))
    assert ended.result == diffrax.RESULTS.dt_min_reached
    assert int(ended.stats["num_steps"]) < 200  # observed 113


class Asked(eqx.Module):
    """A field that tells the latest time at which it was asked."""

    field: Any
    times: list = eqx.field(static=True)

    def __call__(self, t, y, args):
        jax.debug.callback(lambda t: self.times.append(float(t)), t)
        return self.field(t, y, args)


def root_of_time_left(t, y, args):
    return 1e-3 * y * jnp.sqrt(1 - t)


@pytest.mark.parametrize("sign", some_slow([1, -1], -1))
def test_field_is_asked_nowhere_but_in_the_interval(sign):
    # Hairer's rule by itself would try a step of length 10.
    times = []
    field = Asked(lambda t, y, args: sign * root_of_time_left(sign * t, y, args), times)
    solution = solve(field, 1.0, [0.0, 0.99 * sign], jaxode.InitialStep(PID))
    jax.effects_barrier()
    assert max(times, key=abs) == pytest.approx(0.99 * sign)
    exact = np.exp(1e-3 * 2 / 3 * (1 - 0.01**1.5))
    assert abs(float(last(solution)) / exact - 1) < 1e-5  # observed 2e-6


def last(solution: diffrax.Solution) -> Any:
    """The state at the end of a solve that saved every step."""
    assert solution.ts is not None and solution.ys is not None
    return solution.ys[int(np.isfinite(solution.ts).sum()) - 1]


def test_trial_that_leaves_the_domain_makes_the_first_step_shorter():
    # The second component is zero at 2e-3, and the rule would try a step of 7e-3.
    field = lambda t, y, args: -jnp.sqrt(y)
    solution = solve(field, [1.0, 1e-6], [0.0, 1e-3], jaxode.InitialStep(PID))
    assert 0 < first_step(solution) < 1e-4
    exact = (np.sqrt([1.0, 1e-6]) - 0.5e-3) ** 2
    np.testing.assert_allclose(last(solution), exact, rtol=1e-2, atol=ATOL)
    assert int(solution.stats["num_steps"]) <= 8  # observed 3


@pytest.mark.parametrize("scale", some_slow([1e-30, 1e-24, 1e24, 1e30], 1e-30, 1e30))
def test_first_step_is_right_at_any_scale_of_time(scale):
    # Rates, squared inside the norm, leave the range of single precision.
    field = lambda t, y, args: -y / scale
    solution = solve(field, 1.0, [0.0, scale], jaxode.InitialStep(PID))
    assert 0 < first_step(solution) <= 1.001 * scale
    assert abs(float(last(solution)) / np.exp(-1) - 1) < 1e-3


@pytest.mark.parametrize("value", some_slow([np.nan, np.inf], np.nan))
def test_first_step_is_finite_where_the_field_is_not(value):
    field = lambda t, y, args: value * y
    solution = solve(
        field, [1.0, 2.0], [0.0, 1.0], jaxode.InitialStep(PID), throw=False
    )
    assert solution.result == diffrax.RESULTS.dt_min_reached


def test_first_step_of_a_solve_without_end_is_hairers(x64):
    # Until an event, that is.
    solution = solve(
        turning,
        [1.0, -0.5],
        [0.0, np.inf],
        jaxode.InitialStep(PID),
        event=diffrax.Event(lambda t, y, args, **kwargs: t > 2),
    )
    expected = hairer(turning_numpy, 0.0, np.array([1.0, -0.5]), 1, order=5)
    assert abs(first_step(solution) / expected - 1) < 1e-12
