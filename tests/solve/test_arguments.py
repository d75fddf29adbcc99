"""Bad input: each message says what was passed, what is needed and what to type."""

import inspect
from collections.abc import Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import each_adjoint, quick_jit, some_slow, unchecked_types

import jaxode


decay = lambda t, y, args: jax.tree.map(jnp.negative, y)
ONES = np.ones(2, np.float32)
TS = np.array([0.0, 1.0], np.float32)
EULER = diffrax.Euler()
PID = diffrax.PIDController(rtol=1e-3, atol=1e-6)


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    with unchecked_types():
        yield


def odeint(field: Any = decay, y0: Any = ONES, ts: Any = TS, **settings: Any) -> Any:
    return jaxode.odeint(field, y0, ts, **settings)


BAD_TIMES = {
    "too_short": ([0.0], ValueError, r"shape \(1,\); pass at least two times"),
    "scalar": (1.0, ValueError, r"shape \(\); pass at least two times"),
    "matrix": (np.ones((2, 2)), ValueError, r"shape \(2, 2\)"),
    "not_in_order": ([0.0, 2.0, 1.0], ValueError, r"not in order: \[0. 2. 1.\]; sort"),
    "integers": ([0, 1], TypeError, r"dtype int32; times must be floating.*0.0, 1.0"),
    "nan": ([0.0, np.nan, 1.0], ValueError, r"NaN or an infinity: \[ 0. nan  1.\]; p"),
    "infinity": ([0.0, np.inf], ValueError, r"NaN or an infinity: \[ 0. inf\]; pass f"),
}


@pytest.mark.parametrize(("ts", "error", "match"), BAD_TIMES.values(), ids=BAD_TIMES)
def test_bad_times_are_refused(ts, error, match):
    with pytest.raises(error, match=match):
        odeint(ts=ts)


@jax.jit
def last_state(ts, dt0):
    return odeint(ts=ts, solver=EULER, rtol=None, dt0=dt0).ys[-1]


@pytest.mark.parametrize(
    "ts", [[0.0, 2, 1], [1.0, 0, 1], [0.0, np.nan, 1], [0.0, 1, np.inf]]
)
def test_bad_times_are_refused_when_traced(ts):
    with pytest.raises(jax.errors.JaxRuntimeError, match="ts must be finite, and inc"):
        jax.block_until_ready(last_state(jnp.array(ts), 0.1))


@pytest.mark.parametrize("dt0", [-0.1, 0.0, np.nan])
def test_bad_dt0_is_refused_when_traced(dt0):
    ts = jnp.array([0.0, 0.5, 1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="dt0 must be finite, not zer"):
        jax.block_until_ready(last_state(ts, dt0))


def test_bad_times_are_shown_when_differentiated():
    loss = lambda ts: odeint(ts=ts).ys.sum()
    with pytest.raises(ValueError, match=r"not in order: \[0. 1. 0.\]; sort"):
        jax.grad(loss)(jnp.array([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("name", some_slow(["rtol", "atol"], "rtol"))
def test_bad_tolerances_are_refused_when_traced(name):
    run = quick_jit(lambda value: odeint(**{name: value}).ys)
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{name} must be positive"):
        jax.block_until_ready(run(jnp.array(-1e-3)))


BAD_TRACED = {
    "rtol": [-1e-3, np.inf, np.nan, 1e-38],
    "atol": [0.0],
    "dt0": [-0.1, 0.0, np.nan],
}


@pytest.mark.slow
@each_adjoint()
def test_traced_setting_out_of_bounds_is_no_success_where_nothing_throws(adjoint):
    """A negative tolerance accepts no step or every step, by its sign alone."""
    solve = lambda **given: odeint(adjoint=adjoint, max_steps=16, throw=False, **given)
    for name, values in BAD_TRACED.items():
        run = quick_jit(lambda value, name=name: solve(**{name: value}).stats.success)
        found = [bool(run(jnp.asarray(value, jnp.float32))) for value in values]
        assert not any(found) and run(jnp.asarray(0.1, jnp.float32)), name


BAD_STATES = {
    "integers": (
        np.ones(2, np.int32),
        TypeError,
        r"y0 has dtype int32.*rray\(y0, float",
    ),
    "leaf": ({"a": ONES, "b": 1}, TypeError, r"y0\['b'\] has dtype int32"),
    "booleans": (np.ones(2, bool), TypeError, "y0 has dtype bool"),
    "half": (np.ones(2, np.float16), TypeError, "float16, too coarse .*float32"),
    "empty": ({}, ValueError, "y0 has no leaves; pass an array"),
    "no numbers": (np.ones((0, 2)), ValueError, r"is empty \(shape \(0, 2\)\); pass"),
}


@pytest.mark.parametrize(("y0", "error", "match"), BAD_STATES.values(), ids=BAD_STATES)
def test_bad_states_are_refused(y0, error, match):
    with pytest.raises(error, match=match):
        odeint(y0=y0)


def test_mixed_precisions_are_refused(x64):
    match = r"mixes precisions: y0\[0\] in float32, y0\[1\] in float64; pass all"
    with pytest.raises(TypeError, match=match):
        odeint(y0=(ONES, np.ones(2)))


BAD_FIELDS = {
    "shape": (lambda t, y, a: y[:1], ValueError, r"f32\[1\], but y0 is f32\[2\]"),
    "dtype": (lambda t, y, a: y.astype(int), ValueError, r"i32\[2\], but y0 is f32"),
    "structure": (lambda t, y, a: (y, y), ValueError, r"\(f32\[2\], f32\[2\]\), but"),
    "broadcast": (lambda t, y, a: 0.0, ValueError, r"f32\[\], but y0 is f32\[2\]"),
    "not_callable": (3.0, TypeError, "callable as field.t, y, args.; got 3.0"),
}


@pytest.mark.parametrize(
    ("field", "error", "match"), BAD_FIELDS.values(), ids=BAD_FIELDS
)
def test_bad_fields_are_refused(field, error, match):
    with pytest.raises(error, match=match):
        odeint(field)


BAD_SETTINGS = {
    "rtol": (dict(rtol=0.0), ValueError, "rtol must be positive; got 0.0.*rtol=1e-3"),
    "atol": (dict(atol=-1e-6), ValueError, "atol must be positive; got -1e-06"),
    "nan": (dict(rtol=np.nan), ValueError, "rtol must be positive; got nan"),
    "infinite": (dict(rtol=np.inf), ValueError, "rtol must be finite; got inf. Pass a"),
    "int32": (
        dict(max_steps=2**31),
        ValueError,
        r"got 2147483648\..*at most 2",
    ),
    "text": (dict(rtol="1e-3"), TypeError, "a number such as 1e-3; got '1e-3'"),
    "many": (dict(atol=ONES), ValueError, r"atol must be one number; got shape \(2,\)"),
    "no_atol": (dict(atol=None), ValueError, "pass atol=... with rtol"),
    "sign": (dict(dt0=-0.1), ValueError, r"dt0=-0.1 points away.*; pass dt0=0.1"),
    "zero": (dict(dt0=0.0), ValueError, "dt0 must be finite and not zero; got 0.0"),
    "vector": (dict(dt0=ONES), ValueError, r"dt0 must be one number; .*\(2,\)"),
    "no_steps": (dict(rtol=None), ValueError, "fixed steps, and dt0=None does not say"),
    "euler": (dict(solver=EULER), ValueError, "Euler has no error estimate.*rtol=None"),
    "rk4": (dict(solver=jaxode.RK4()), ValueError, "RK4 has no error estimate"),
    "solver": (dict(solver="rk4"), TypeError, "such as diffrax.Dopri5.*; got 'rk4'"),
    "split": (
        dict(solver=diffrax.KenCarp4()),
        ValueError,
        "KenCarp4 is for equations in several terms.*one field; pass.*Kvaerno5",
    ),
    "symplectic": (
        dict(solver=diffrax.SemiImplicitEuler(), rtol=None, dt0=0.1),
        ValueError,
        "SemiImplicitEuler is for equations in several terms",
    ),
    "controller": (
        dict(controller=diffrax.ConstantStepSize()),
        TypeError,
        "controller must be an adaptive one.*got ConstantStepSize.*rtol=None and dt0",
    ),
    "max_steps": (
        dict(max_steps=0),
        ValueError,
        "positive integer; got 0.*max_steps=4096",
    ),
    "adjoint": (
        dict(adjoint="bakcsolve"),
        ValueError,
        "Unknown adjoint 'bakcsolve'; choose one of 'discrete', 'backsolve', 'chec",
    ),
    "no_adjoint": (
        dict(adjoint=True),
        TypeError,
        "jaxode.Discrete or jaxode.*got True",
    ),
}


@pytest.mark.parametrize(
    ("settings", "error", "match"), BAD_SETTINGS.values(), ids=BAD_SETTINGS
)
def test_bad_settings_are_refused(settings, error, match):
    with pytest.raises(error, match=match):
        odeint(**settings)


def test_dt0_must_be_negative_for_decreasing_times():
    with pytest.raises(ValueError, match="runs from 1.0 to 0.0; pass dt0=-0.1"):
        odeint(ts=TS[::-1], dt0=0.1)


def test_tiny_dt0_must_point_along_tiny_times():
    """Their product is zero in single precision."""
    ts = jnp.array([0.0, 1e-30])
    odeint(ts=ts, dt0=1e-30)
    for times, dt0 in ((ts, -1e-30), (ts[::-1], 1e-30)):
        with pytest.raises(ValueError, match="points away from ts"):
            odeint(ts=times, dt0=dt0)


def test_backsolve_refuses_tolerances_beside_a_controller():
    with pytest.raises(ValueError, match="set these on the controller: Backsolve"):
        jaxode.Backsolve(controller=PID, rtol=0.1)


BAD_BACKSOLVE = {
    "tolerance_of_fixed_steps": (
        jaxode.Backsolve(rtol=0.1),
        dict(solver=EULER, rtol=None, dt0=0.1),
        "steps that no diffrax.PIDController chooses; pass an adaptive solver",
    ),
    "no_error_estimate": (
        jaxode.Backsolve(solver=EULER),
        {},
        "Backsolve got Euler, which has no error estimate.*pass dt0=",
    ),
    "controller_for_euler": (
        jaxode.Backsolve(solver=EULER, controller=PID, dt0=0.1),
        {},
        "pass dt0=... and no controller",
    ),
}


@pytest.mark.parametrize(
    ("adjoint", "settings", "match"), BAD_BACKSOLVE.values(), ids=BAD_BACKSOLVE
)
def test_bad_backsolve_settings_are_refused(adjoint, settings, match):
    with pytest.raises(ValueError, match=match):
        odeint(adjoint=adjoint, **settings)


def test_statistics_of_diffrax_own_backsolve_are_refused():
    loss = lambda y0: odeint(y0=y0, adjoint=diffrax.BacksolveAdjoint()).ys.sum()
    with pytest.raises(ValueError, match="pass adjoint='backsolve' or jaxode.Backs"):
        jaxode.value_and_grad_with_stats(loss)(jnp.ones(2))


def test_settings_have_the_defaults_of_odeint():
    parameters = inspect.signature(jaxode.odeint).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    # What is asked of the solution besides the state is no setting.
    assert (defaults.pop("cost"), defaults.pop("dense")) == (None, False)
    assert defaults == jaxode.SolveSettings().to_dict()


def test_settings_are_hashable_and_equal_where_their_values_are():
    first, second = (jaxode.SolveSettings(rtol=1e-4, controller=PID) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != jaxode.SolveSettings(rtol=1e-5, controller=PID)


def test_settings_that_contradict_each_other_are_refused_as_such():
    with pytest.raises(ValueError, match="Euler has no error estimate.*rtol=None and"):
        jaxode.SolveSettings(solver=EULER)


def test_unknown_setting_is_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match="'rtoll'; choose from solver, adjoint, rtol"):
        jaxode.SolveSettings().replace(rtoll=1e-3)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_backsolve_refuses_a_gradient_of_a_captured_array(jit):
    def loss(rate):
        return odeint(lambda t, y, args: -rate * y, adjoint="backsolve").ys.sum()

    with pytest.raises(ValueError, match="closes over an array.*through `args`, or"):
        jit(jax.grad(loss))(jnp.array(2.0))


@each_adjoint("backsolve", "discrete")
def test_captured_array_that_is_not_differentiated_is_a_constant(adjoint):
    @jax.jit
    def gradient(y0, rate):
        field = lambda t, y, args: -rate * y
        loss = lambda y0: odeint(field, y0, adjoint=adjoint, rtol=1e-5).ys[-1].sum()
        return jax.grad(loss)(y0)

    np.testing.assert_allclose(
        gradient(jnp.ones(2), jnp.array(2.0)),
        np.exp(-2) * np.ones(2),
        rtol=1e-4,  # observed 2e-5
    )


def test_checkpoint_differentiates_a_captured_array():
    def loss(rate):
        return odeint(lambda t, y, args: -rate * y, rtol=1e-5).ys[-1].sum()

    gradient = jax.jit(jax.grad(loss))(jnp.array(2.0))
    np.testing.assert_allclose(gradient, -2 * np.exp(-2), rtol=1e-4)  # observed 6e-6


def test_lists_and_numbers_are_taken_for_arrays():
    sol = odeint(y0=1.0, ts=[0.0, 1.0])
    assert sol.ys.shape == sol.ts.shape == (2,)
    assert eqx.tree_equal(sol.ys, odeint(y0=jnp.array(1.0)).ys)
