"""Events: when, which, in what state, and every gradient; against closed forms."""

import os
import subprocess
import sys
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    Counting,
    Counts,
    each_adjoint,
    needs_shard_map,
    quick_jit,
    relative_error,
    some_slow,
    unchecked_types,
)
from problems import Logistic, PROBLEMS

import jaxode


TIGHT: dict[str, Any] = dict(rtol=1e-11, atol=1e-11, throw=False)

# dy/dt = a + b t, solved by RK4 without error; binary fractions leave no rounding.
parabola = lambda t, y, args: args[0] + args[1] * t
height = lambda t, y, args: y


def exactly(dt0, **settings):
    """Settings for equal steps of a length that the solver has no error with."""
    fixed = dict(solver=jaxode.RK4(), rtol=None, dt0=dt0, throw=False)
    return fixed | settings


# Time, state and gradients


class Level(eqx.Module):
    """The mean of the state less a level that rises, and arrays in three places."""

    level: Any

    def __call__(self, t, y, args):
        return jnp.mean(y) - self.level - args["rise"] * t


def logistic_loss(hit_t, hit_y, ys, mask):
    """Everything that can be differentiated, with weights of its own."""
    weights = jnp.where(mask, 1.0, 0.3) * jnp.arange(1.0, 1 + len(mask))
    return 2 * hit_t + jnp.sum(hit_y**2) + jnp.tensordot(weights, jnp.sum(ys, 1), 1)


def exact_logistic_hit(field, event, y0, ts, args):
    """The event by bisection of the exact solution, and one step of Newton's method."""
    at = lambda t: PROBLEMS["logistic"].exact(
        field, y0, jnp.stack([ts[0], t]), args["capacity"]
    )[1]
    g = lambda t: event(t, at(t), args)
    low, high = jax.lax.stop_gradient((ts[0], ts[-1]))
    start = jnp.sign(g(low))
    for _ in range(60):
        middle = 0.5 * (low + high)
        before = g(middle) * start > 0
        low, high = jnp.where(before, middle, low), jnp.where(before, high, middle)
    tau = jax.lax.stop_gradient(high)
    t = tau - g(tau) / jax.lax.stop_gradient(jax.grad(g)(tau))
    forward = jnp.sign(ts[-1] - ts[0])
    mask = forward * (ts - tau) <= 0
    return t, at(t), jax.vmap(at)(jnp.where(mask, ts, t)), mask


@each_adjoint("discrete")
@pytest.mark.parametrize("reverse", some_slow([False, True], False))
def test_event_is_exact_and_so_is_every_gradient(x64, adjoint, reverse):
    """Read-outs after the event hold its state, gradient and all (diffrax 729)."""
    rate, y0 = jnp.array(1.7), jnp.array([0.2, 0.6])
    capacity, rise = jnp.array([1.5, 1.1]), jnp.array(0.05)
    ts = jnp.array([0.2, 0.5, 0.9, 1.6, 2.5])
    level, times = jnp.array(0.8), ts
    if reverse:
        level, times = jnp.array(0.13), 0.7 - ts
    settings: dict[str, Any] = TIGHT | dict(adjoint=adjoint, max_steps=256)

    def with_odeint(rate, level, y0, ts, args):
        field = lambda t, y, a: Logistic(rate)(t, y, a["capacity"])
        if adjoint == "backsolve":
            # A field must hold its arrays there; an event may close over them.
            field = Wrapped(Logistic(rate))
        event = lambda t, y, a: Level(level)(t, y, a)
        hit = jaxode.odeint_event(field, y0, ts, event, args, **settings)
        return hit.t, hit.y, hit.ys, hit.mask

    def exact(rate, level, y0, ts, args):
        return exact_logistic_hit(Logistic(rate), Level(level), y0, ts, args)

    def run(solve):
        def loss(problem):
            found = solve(*problem)
            return logistic_loss(*found), found

        problem = rate, level, y0, times, {"capacity": capacity, "rise": rise}
        return quick_jit(jax.value_and_grad(loss, has_aux=True))(problem)

    (_, actual), by_all = run(with_odeint)
    (_, expected), by_all_exactly = run(exact)
    assert actual[-1].tolist() == expected[-1].tolist() == [True] * 3 + [False] * 2
    # Observed at most 4e-11.
    assert relative_error(actual[:-1], expected[:-1]) < 1e-10
    # Observed at most 5e-10.
    assert relative_error(by_all, by_all_exactly) < 5e-9


class Wrapped(eqx.Module):
    field: Any

    def __call__(self, t, y, args):
        return self.field(t, y, args["capacity"])


# What an event is

PARABOLAS = {
    # y0, a, b of y = y0 + a t + b t^2 / 2 in [0, 1]; when it crosses zero, whither.
    "in_the_first_step": ((-0.125, 1, 0), [(0.125, 1)]),
    "in_the_last_step": ((0.875, -1, 0), [(0.875, -1)]),
    "at_the_end": ((-1, 1, 0), [(1.0, 1)]),
    "after_the_end": ((-2, 1, 0), []),
    "before_the_start": ((1, 1, 0), []),
    "starts_at_zero": ((0, 1, 0), []),
    "starts_at_zero_and_returns": ((0, 1, -4), [(0.5, -1)]),
    "starts_at_zero_without_slope": ((0, 0, 2), []),
    "touches": ((0.25, -1, 2), []),
    "turns_back_before": ((0.3, -1.2, 2.5), []),
    "twice": ((-0.15, 1.0, -2), [(0.5 - 0.1**0.5, 1), (0.5 + 0.1**0.5, -1)]),
    "twice_in_a_step": ((-0.0675, 0.6, -2), [(0.15, 1), (0.45, -1)]),
    "nowhere": ((0.5, 0, 0), []),
}


@pytest.mark.parametrize("dt0", some_slow([0.25, 1.0], 1.0))
@pytest.mark.parametrize("direction", some_slow([None, 1, -1], None))
def test_crossings_count_and_contacts_do_not(x64, dt0, direction):
    """With `dt0=1` there is one step to each time: all happens in the first or last."""
    problems = jnp.array([problem for problem, _ in PARABOLAS.values()], float)
    ts = jnp.array([0.0, 0.6, 1.0])

    def find(problem):
        def end(y0, ts):
            hit = jaxode.odeint_event(
                parabola,
                y0,
                ts,
                height,
                problem[1:],
                direction=direction,
                **exactly(dt0),
            )
            return hit.t, hit

        gradient = jax.value_and_grad(end, argnums=(0, 1), has_aux=True)
        (_, hit), slopes = gradient(problem[0], ts)
        return hit, slopes

    hits, (by_y0, by_ts) = quick_jit(jax.vmap(find))(problems)
    assert np.all(hits.stats.success)
    for i, (name, (problem, crossings)) in enumerate(PARABOLAS.items()):
        asked = [t for t, way in crossings if direction in (None, way)]
        y0, a, b = problem
        t = asked[0] if asked else 1.0
        assert hits.happened[i] == bool(asked), name
        assert hits.which[i] == (0 if asked else -1), name
        # Observed at most 2e-16; the others touch zero, or end at it.
        assert abs(hits.t[i] - t) < 1e-14, name
        assert abs(hits.y[i] - (0 if asked else y0 + a + b / 2)) < 1e-14, name
        # dt / dy0 = -1 / y'(t), and dy / dt0 = -a. The end moves with itself alone.
        by_t0, by_start = (a / (a + b * t), -1 / (a + b * t)) if asked else (0, 0)
        assert abs(by_y0[i] - by_start) < 1e-12, name
        expected = [by_t0, 0, 0 if asked else 1]
        np.testing.assert_allclose(by_ts[i], expected, atol=1e-12, err_msg=name)
        assert hits.mask[i].tolist() == [True, t >= 0.6, t >= 1.0], name
        row = y0 + 0.6 * a + 0.18 * b if t >= 0.6 else 0
        assert abs(hits.ys[i, 1] - row) < 1e-14, name


rotation = lambda t, y, w: w * jnp.stack([-y[1], y[0]])
falls_through = lambda i, level: lambda t, y, w: y[i] - level


@pytest.mark.parametrize("dtype", some_slow([jnp.float32, jnp.float64], jnp.float32))
def test_first_of_several_events_wins(x64, dtype):
    """A point on a circle, from 24 angles, each solved with steps of its own."""
    angles = jnp.linspace(0.1, 6.1, 24, dtype=dtype)
    twice = lambda t, y, w: 2 * y[0] - 1.0
    events = [falls_through(0, 0.5), twice, falls_through(1, -0.7)]
    directions = [-1, None, 1]
    settings = TIGHT if dtype == jnp.float64 else dict(rtol=1e-5, throw=False)

    def find(angle):
        y0 = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        ts = jnp.array([0.0, 9.0], dtype)
        speed = jnp.array(1.3, dtype)
        return jaxode.odeint_event(
            rotation, y0, ts, events, speed, direction=directions, **settings
        )

    hits = quick_jit(jax.vmap(find))(angles)

    # cos crosses 0.5 at pi/3 downwards and at -pi/3 upwards, sin crosses -0.7 upwards
    # at -asin(0.7). At pi/3 both of the first two events happen.
    crossings = [(np.pi / 3, 0), (-np.pi / 3, 1), (-np.arcsin(0.7), 2)]
    ahead = np.array(
        [[(at - float(a)) % (2 * np.pi) for at, _ in crossings] for a in angles]
    )
    first = ahead.argmin(1)
    assert set(first) == {0, 1, 2} and np.all(hits.happened)
    np.testing.assert_array_equal(hits.which, [crossings[i][1] for i in first])
    # Observed 3e-11 and 7e-5, at tolerances of 1e-11 and 1e-5.
    tolerance = 1e-10 if dtype == jnp.float64 else 2e-4
    np.testing.assert_allclose(hits.t, ahead.min(1) / 1.3, atol=tolerance)


def test_events_with_an_exact_tie_give_the_first_named(x64):
    twice, less = (lambda t, y, a: 2 * y), (lambda t, y, a: -y)
    events = [lambda t, y, a: y - 0.1, less, twice, height]
    hit = jaxode.odeint_event(
        parabola, -0.3, [0.0, 1.0], events, (1.0, 0.0), **exactly(1.0)
    )
    assert hit.which == 1 and abs(hit.t - 0.3) < 1e-15


def test_step_is_located_and_not_its_interpolant(x64):
    """A solve that ends at the event's time finds the event there.

    The interpolant of these long steps is off by far more than the last bits.
    """
    event = lambda t, y, w: jnp.sin(3 * y[0]) + 0.2 * y[1]
    y0 = jnp.array([1.0, 0.0])
    solver: dict[str, Any] = dict(solver=diffrax.Bosh3(), rtol=1e-2, throw=False)

    @quick_jit
    def find():
        hit = jaxode.odeint_event(rotation, y0, [0.0, 6.0], event, 1.0, **solver)
        to_it = jnp.stack([jnp.zeros_like(hit.t), hit.t])
        return hit, jaxode.odeint(rotation, y0, to_it, 1.0, **solver).ys[-1]

    hit, y = find()
    # Observed 1e-16.
    assert abs(event(hit.t, y, 1.0)) < 1e-13
    np.testing.assert_allclose(hit.y, y, atol=1e-13)


# In every setting

SETTINGS: dict[str, dict[str, Any]] = {
    "implicit": dict(solver=diffrax.Kvaerno5(), rtol=1e-10, atol=1e-10),
    "no_fsal": dict(solver=diffrax.Dopri8(), rtol=1e-8, atol=1e-8),
    "in_a_loop": dict(unroll=False, rtol=1e-8, atol=1e-8),
    "equal_steps": dict(solver=jaxode.RK4(), rtol=None, dt0=0.01),
    "controller": dict(controller=diffrax.PIDController(1e-8, 1e-8, dtmax=0.3)),
}


@pytest.mark.parametrize("name", some_slow(SETTINGS, "equal_steps"))
@pytest.mark.parametrize("sign", some_slow([1, -1], -1))
def test_every_solver_finds_and_differentiates(x64, name, sign):
    settings = SETTINGS[name] | dict(throw=False)
    if "dt0" in settings:
        settings["dt0"] = sign * settings["dt0"]
    ts = sign * jnp.array([0.0, 0.55, 1.1, 4.0])

    def find(y0, speed):
        hit = jaxode.odeint_event(
            rotation, y0, ts, lambda t, y, w: y[0] - 0.3, speed, **settings
        )
        return hit.t + hit.y[1] + 2 * hit.ys[1, 0], hit

    y0, speed = jnp.array([1.0, 0.2]), jnp.array(1.3)
    gradient = jax.value_and_grad(find, argnums=(0, 1), has_aux=True)
    (_, hit), (by_y0, by_speed) = quick_jit(gradient)(y0, speed)

    def exactly_found(y0, speed):
        radius, angle = jnp.linalg.norm(y0), jnp.arctan2(y0[1], y0[0])
        end = sign * jnp.arccos(0.3 / radius)
        y1 = sign * jnp.sqrt(radius**2 - 0.09)
        row = radius * jnp.cos(angle + speed * ts[1])
        return (end - angle) / speed + y1 + 2 * row, (end - angle) / speed

    exact = jax.value_and_grad(exactly_found, argnums=(0, 1), has_aux=True)
    (_, t), expected = exact(y0, speed)
    assert hit.happened and hit.stats.success
    assert hit.mask.tolist() == [True, True, abs(t) > 1.1, False]
    assert abs(hit.t - t) < 1e-7  # observed at most 2e-8
    # Observed at most 5e-8, and 2e-6 with Dopri8, whose read-outs lie in long steps.
    assert relative_error((by_y0, by_speed), expected) < 1e-5


def test_an_event_may_lie_beside_a_jump_of_the_field(x64):
    """The slope is 1 before t = 1 and 3 after it: levels before, at and after it."""
    kink = lambda t, y, level: jnp.where(t < 1, 1.0, 3.0) + 0 * y
    event = lambda t, y, level: y - level

    def find(level):
        hit = jaxode.odeint_event(
            kink, 0.0, [0.0, 2.0], event, level, jumps=[1.0], throw=False
        )
        return hit.t, hit

    levels = jnp.array([0.5, 1.0, 2.5])
    gradient = jax.value_and_grad(find, has_aux=True)
    (t, hit), slopes = quick_jit(jax.vmap(gradient))(levels)
    assert np.all(hit.happened) and np.all(hit.stats.success)
    # Observed 7e-16.
    np.testing.assert_allclose(t, [0.5, 1.0, 1.5], rtol=1e-14)
    np.testing.assert_allclose(slopes[jnp.array([0, 2])], [1, 1 / 3], rtol=1e-14)
    # At the jump, either side's.
    assert min(abs(slopes[1] - 1), abs(slopes[1] - 1 / 3)) < 1e-14


def test_states_may_be_trees_and_complex(x64):
    """A point that turns in the plane of complex numbers, beside one that decays."""
    field = lambda t, y, w: {"z": 1j * w.astype(complex) * y["z"], "r": (-y["r"][0],)}
    event = lambda t, y, w: jnp.imag(y["z"]) - jnp.real(y["r"][0])

    def find(z0, w):
        y0 = {"z": z0, "r": (jnp.array(0.5 + 0j),)}
        hit = jaxode.odeint_event(field, y0, [0.0, 3.0], event, w, **TIGHT)
        return hit.t, hit

    w = jnp.array(1.1)
    (t, hit), by_w = quick_jit(jax.value_and_grad(find, 1, has_aux=True))(1 + 0j, w)
    # sin(w t) = exp(-t) / 2.
    g = lambda t, w: jnp.sin(w * t) - 0.5 * jnp.exp(-t)
    assert abs(g(t, w)) < 1e-10 and abs(hit.y["z"] - np.exp(1j * float(w * t))) < 1e-10
    expected = -jax.grad(g, 1)(t, w) / jax.grad(g, 0)(t, w)
    assert abs(by_w / expected - 1) < 1e-9  # observed 2e-11


TWO_DEVICES = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import jaxode

mesh, batch = Mesh(np.array(jax.devices()), ("batch",)), PartitionSpec("batch")
assert mesh.size == 2
rotation = lambda t, y, w: w * jnp.stack([-y[1], y[0]])

def one(angle):
    y0 = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    # Zero at the start, from where it falls: 0.3 < 1.3 sin(angle) < 2 * 0.3.
    event = lambda t, y, w: y[0] - y0[0] + 0.3 * t
    settings = dict(rtol=1e-5, throw=False)
    hit = jaxode.odeint_event(rotation, y0, [0.0, 9.0], event, 1.3, **settings)
    return hit.t, hit.stats.nfe

alone = jax.vmap(one)
in_parts = jax.shard_map(alone, mesh=mesh, in_specs=batch, out_specs=batch)

def gradient(find, angles):
    def loss(angles):
        times, nfe = find(angles)
        return jnp.sum(times), (times, nfe)

    (_, found), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(angles)
    return *found, slopes

angles = jnp.array([0.3, 0.4])
times, nfe, slopes = gradient(in_parts, angles)
times_alone, nfe_alone, slopes_alone = gradient(alone, angles)
# Observed equal.
np.testing.assert_allclose(times, times_alone, rtol=1e-6)
np.testing.assert_allclose(slopes, slopes_alone, rtol=1e-5)
assert nfe.tolist() == nfe_alone.tolist()
"""


@needs_shard_map
@pytest.mark.slow
def test_shard_map_finds_the_events_of_each_part():
    """A slope by the time that is summed over the mesh has another sign here."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


# What it costs, and where it does not work


class Turning(eqx.Module):
    def __call__(self, t, y, w):
        return rotation(t, y, w)


@pytest.mark.parametrize("unroll", some_slow([True, False], True))
def test_every_field_call_is_counted(unroll):
    counts = Counts()
    field = Counting(Turning(), counts)

    @quick_jit
    def find(speed):
        ts, event = [0.0, 1.0, 9.0], falls_through(0, -0.5)
        y0 = jnp.array([1.0, 0.0])
        hit = jaxode.odeint_event(
            field, y0, ts, event, speed, unroll=unroll, throw=False
        )
        return hit.stats

    # The second needs one step only; in the third there is no event.
    for speed in (1.3, 20.0, 0.01):
        stats = find(jnp.array(speed))
        assert counts.read()[0] == stats.nfe
        assert stats.num_steps == stats.num_accepted_steps + stats.num_rejected_steps


def test_a_gradient_tells_what_its_way_back_took():
    def loss(speed):
        y0 = jnp.array([1.0, 0.0])
        event = falls_through(0, -0.5)
        hit = jaxode.odeint_event(rotation, y0, [0.0, 9.0], event, speed, throw=False)
        return hit.t, hit.stats

    gradient = quick_jit(jaxode.value_and_grad_with_stats(loss, has_aux=True))
    (_, stats), slope, counts = gradient(jnp.array(1.3))
    # The second solve alone is differentiated.
    assert counts.num_solves == 1 and counts.num_failures == 0
    assert 0 < counts.num_accepted_steps < float(stats.num_accepted_steps)
    # t = (2 pi / 3) / w; observed 1.3e-3 off, at a tolerance of 1e-3.
    assert abs(slope / (-2 * np.pi / 3 / 1.3**2) - 1) < 4e-3


def test_second_derivative_is_refused():
    def find(speed):
        y0 = jnp.array([1.0, 0.0])
        settings: dict[str, Any] = dict(adjoint="direct", max_steps=16, throw=False)
        event = falls_through(0, -0.5)
        return jaxode.odeint_event(rotation, y0, [0.0, 9.0], event, speed, **settings).t

    with pytest.raises(ValueError, match="odeint_event is differentiated twice"):
        jax.eval_shape(jax.grad(jax.grad(find)), jnp.array(1.3))


def find_with(event: Any = height, **settings: Any) -> Any:
    field = lambda t, y, args: jnp.ones_like(y)
    y0 = jnp.full(2, -0.5) if "vector" in settings else jnp.array(-0.5)
    settings.pop("vector", None)
    return jaxode.odeint_event(field, y0, [0.0, 1.0], event, **settings)


BAD_EVENTS = {
    "vector": (
        dict(vector=True),
        ValueError,
        r"returned f32\[2\], and an event is one .* such as y\[0\] or a sum",
    ),
    "pair": (
        dict(event=lambda t, y, a: (y, y)),
        ValueError,
        r"returned \(f32\[\], f32\[\]\); an event is one number.*pass a list of fun",
    ),
    "nothing": (
        dict(event=lambda t, y, a: None),
        ValueError,
        "event.t, y, args. returned None; an event is one number that crosses zero",
    ),
    "condition": (
        dict(event=lambda t, y, a: y > 0),
        TypeError,
        r"returned bool\[\]; .*a condition such as y\[0\] > 1.0",
    ),
    "integer": (
        dict(event=[height, lambda t, y, a: jnp.int32(1)]),
        TypeError,
        r"event\[1\]\(t, y, args\) returned i32\[\]; an event is located where",
    ),
    "not_callable": (
        dict(event=3.0),
        TypeError,
        r"event must be callable as event\(t, y, args\); got 3.0. Pass a function",
    ),
    "not_all_callable": (
        dict(event=[height, None]),
        TypeError,
        r"event\[1\] must be callable as event\[1\]\(t, y, args\); got None",
    ),
    "none": (dict(event=[]), ValueError, "an empty list; pass at least one function"),
    "direction": (
        dict(direction=2),
        ValueError,
        "direction must be None .both., 1 .upwards. or -1.*got 2 for 1 event.",
    ),
    "direction_word": (dict(direction="up"), ValueError, "got 'up' for 1 event"),
    "directions": (
        dict(event=[height] * 2, direction=[1]),
        ValueError,
        r"a list with one of these for each event; got \[1\] for 2 events",
    ),
    "setting": (dict(rtoll=1e-3), ValueError, "'rtoll'; choose from solver, adjoint"),
}


@pytest.mark.parametrize(
    ("settings", "error", "match"), BAD_EVENTS.values(), ids=BAD_EVENTS
)
def test_bad_events_are_refused(settings, error, match):
    with unchecked_types(), pytest.raises(error, match=match):
        find_with(**settings)


def test_an_event_that_is_nan_fails_the_solve():
    bad = lambda t, y, args: jnp.where(y > -0.2, jnp.nan, y)
    message = r"event \(number 1, counted from 0\) returned NaN at t=0.3, so"
    with pytest.raises(jaxode.SolveError, match=message):
        find_with([lambda t, y, a: y - 0.1, bad], dt0=0.3)
    with pytest.raises(jaxode.SolveError, match=r"number 0, .* returned NaN at t=0,"):
        find_with(lambda t, y, args: jnp.nan * y)
    hit = jax.jit(lambda: find_with(bad, throw=False))()
    assert hit.result != diffrax.RESULTS.successful and not hit.stats.success
    assert not hit.happened and hit.which == -1


def test_an_event_may_be_nan_where_the_solve_does_not_go():
    late = lambda t, y, args: jnp.where(y > 0.2, jnp.nan, y)
    hit = find_with(late, dt0=1.0)
    assert hit.happened and hit.stats.success
    assert abs(hit.t - 0.5) < 1e-6


def test_a_solve_that_fails_before_an_event_says_so():
    blows_up = lambda t, y, args: y**2
    find = lambda throw: jaxode.odeint_event(
        blows_up, 1.0, [0.0, 2.0], lambda t, y, a: y + 1.0, throw=throw
    )
    with pytest.raises(jaxode.SolveError, match=r"The solve .* at t=(1|0.99)"):
        find(True)
    hit = find(False)
    assert not hit.happened and hit.result != diffrax.RESULTS.successful
