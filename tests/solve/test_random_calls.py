"""Random calls of `odeint`, extreme values included: an answer or a documented error.

Settings are traced, so that all calls under one adjoint share a program.
"""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import each_adjoint, quick_jit
from hypothesis import example, given, Phase, settings, strategies as st

import jaxode


pytestmark = pytest.mark.slow

LIMITS = jnp.finfo(jnp.float32)
EXTREME = [0.0, -0.0, 1.0, -1.0, 1e-3, 0.5, 1e-7, 1e-30, 1e-38, 1e-45, -1e-3, 1e7, 1e30]
EXTREME += [float(LIMITS.max), float(LIMITS.tiny), math.inf, -math.inf, math.nan]
NUMBERS = st.sampled_from(EXTREME) | st.floats(width=32, allow_subnormal=False)
USUAL = st.floats(2**-13, 0.5, width=32)
CALLS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)


@st.composite
def calls(draw: Any) -> tuple[np.ndarray, ...]:
    """Times, state, parameter, tolerances, first step; half of the calls are usual."""
    # Which values are drawn depends on the modules that are imported (hypothesis takes
    # their constants), how many calls are usual must not.
    is_odd = st.booleans() if draw(st.booleans()) else st.just(False)
    pick = lambda usual: draw(NUMBERS if draw(is_odd) else usual)
    ts = [pick(st.floats(0, 2, width=32, allow_subnormal=False)) for _ in range(4)]
    ts = ts if draw(is_odd) else sorted(ts, key=lambda t: (math.isnan(t), t))
    y0 = [pick(st.floats(-2, 2, width=32, allow_subnormal=False)) for _ in range(2)]
    rest = [pick(USUAL) for _ in range(4)]
    return tuple(np.asarray(x, np.float32) for x in (ts, y0, *rest))


def call_with(**changes: Any) -> tuple[np.ndarray, ...]:
    """A usual call, but for some of it."""
    usual = dict(ts=[0.0, 0.5, 1.0, 2.0], y0=[1.0, 0.0], a=0.5)
    usual |= dict(rtol=0.01, atol=0.01, dt0=0.1)
    return tuple(np.asarray(x, np.float32) for x in (usual | changes).values())


@cache
def program(adjoint: Any, throw: bool) -> Any:
    """Solution, gradient and whether the solve succeeded."""

    def field(t, y, a):
        return jnp.stack([y[1], a * jnp.sin(y[0]) - 0.1 * y[1] + jnp.sqrt(1 + t)])

    def loss(y0, ts, a, rtol, atol, dt0):
        options: Any = dict(rtol=rtol, atol=atol, dt0=dt0, max_steps=24, throw=throw)
        sol = jaxode.odeint(field, y0, ts, a, adjoint=adjoint, **options)
        return jnp.sum(sol.ys[-1]), (sol.ys, sol.stats.success)

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


@each_adjoint()
def test_call_in_which_nothing_throws_always_answers(adjoint):
    outcomes = []

    # Usual but for one of them: few draws are.
    @CALLS
    @given(call=calls())
    @example(call=call_with())
    @example(call=call_with(rtol=math.inf))
    @example(call=call_with(atol=math.inf))
    @example(call=call_with(rtol=1e-38))
    @example(call=call_with(dt0=-0.1))
    @example(call=call_with(ts=[0.0, 1.0, 0.5, 2.0]))
    def check(call):
        ts, y0, *rest = call
        (_, (ys, success)), grad = program(adjoint, False)(y0, ts, *rest)
        rtol, atol, dt0 = map(float, rest[1:])
        with np.errstate(all="ignore"):
            steps = np.diff(ts)
        is_right = np.isfinite(ts).all() and ((steps >= 0).all() or (steps <= 0).all())
        is_right &= rtol > 0 and atol > 0 and math.isfinite(rtol + atol)
        first, last = float(ts[0]), float(ts[-1])
        is_along = (dt0 > 0 and last >= first) or (dt0 < 0 and last <= first)
        is_right &= math.isfinite(dt0) and is_along
        # What makes no sense is no success; what succeeded is a number everywhere.
        outcomes.append(bool(success))
        if success:
            assert is_right
            assert np.isfinite(ys).all() and ys.shape == (4, 2) and grad.shape == (2,)
            np.testing.assert_array_equal(ys[0], y0)

    check()
    assert len(outcomes) >= 125 and 20 < sum(outcomes) < len(outcomes) - 20


def test_call_that_may_throw_answers_or_throws_what_is_documented():
    @CALLS
    @given(call=calls())
    def check(call):
        ts, y0, *rest = call
        message = "The solve is fine."
        try:
            result = program("discrete", True)(y0, ts, *rest)
            jax.block_until_ready(result)
        # SolveError or a refused time, or what JAX makes of them.
        except (RuntimeError, ValueError) as error:
            message = str(error)
        assert "must be" in message or "solve" in message

    check()


ANYTHING = NUMBERS | st.sampled_from(
    [None, True, "1e-3", (), [1.0], 0, -1, 1, 4096, 2**31 - 2, 2**31, 10**30, 1j]
)
NAMES = ("rtol", "atol", "dt0", "max_steps", "jumps", "solver", "adjoint", "controller")


def makes_sense(name: str, value: Any) -> bool:
    """Of a setting that was taken, for times from 0 to 1."""
    if value is None or name not in NAMES[:4]:
        return True
    if name == "max_steps":
        return 1 <= value < 2**31 - 1
    return 0 < value < math.inf


@settings(max_examples=500, deadline=None, derandomize=True)
@given(given_settings=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4))
@example(given_settings={"max_steps": 2**31})
@example(given_settings={"rtol": math.inf})
@example(given_settings={"dt0": 10**400})
def test_any_settings_are_taken_or_refused_by_a_type_or_value_error(given_settings):
    message = ""
    try:
        jaxode.SolveSettings(**given_settings).for_times(jnp.array([0.0, 1.0]))
    except (TypeError, ValueError) as error:
        message = str(error)
    if message:
        assert any(name in message for name in NAMES)
    else:
        assert all(makes_sense(*setting) for setting in given_settings.items())
