"""Between which bounds the numbers of `SolveSettings` lie, concrete or traced."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


USUAL = {"rtol": "1e-3", "atol": "1e-6", "dt0": "0.1"}

MOST_STEPS = 2**31 - 2
"""Steps are counted in an int32, and one more is looked for than is taken."""


def check_max_steps(max_steps: Any) -> None:
    """Raises `ValueError` for what is no number of steps; `None` is one."""
    is_count = isinstance(max_steps, int) and not isinstance(max_steps, bool)
    if max_steps is not None and not (is_count and 1 <= max_steps <= MOST_STEPS):
        raise ValueError(
            f"max_steps must be a positive integer; got {max_steps!r}. Pass a number "
            "such as max_steps=4096, at most 2**31 - 2."
        )


def check_tolerances(rtol: Any, atol: Any) -> None:
    """Raises `ValueError` where one has a value and is not positive and finite.

    An infinite one would accept any step, however wrong.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is None or isinstance(value, Tracer):
            continue
        is_finite = type(value) is not int or value.bit_length() <= 1000
        if not 0 < value < np.inf or not is_finite:
            need = "positive" if not value > 0 else "finite"
            raise ValueError(
                f"{name} must be {need}; got {value}. Pass a number such as "
                f"{name}={USUAL[name]}."
            )


def is_usable_tolerance(x: Array) -> Array:
    """The same of a traced one.

    Subnormal numbers are none: whether they are above zero may differ from one place
    of a compiled program to another, and a solve would be void in one of them only.
    """
    return (x >= jnp.finfo(x.dtype).tiny) & jnp.isfinite(x)


def is_usable_step(dt0: Array, ts: Float[Array, " time"]) -> Array:
    """Whether a first step is finite, not zero, and points along `ts`."""
    # Where all times are equal there is no direction to point along. By comparisons: a
    # product of the two may be too small to have a sign.
    forwards, backwards = ts[-1] >= ts[0], ts[-1] <= ts[0]
    tiny = jnp.finfo(dt0.dtype).tiny
    along = (dt0 >= tiny) & forwards | (dt0 <= -tiny) & backwards
    return jnp.isfinite(dt0) & along


def void_unless_usable(
    ts: Float[Array, " time"], rtol: Any, atol: Any, dt0: Any
) -> Float[Array, " time"]:
    """The times of a solve, NaN where they or a traced setting are out of bounds.

    So the solve fails, under every adjoint, and no gradient comes out of it. Diffrax
    would raise for times that are not in order.
    """
    if isinstance(ts, Tracer):
        steps = jnp.diff(ts)
        in_order = jnp.all(steps >= 0) | jnp.all(steps <= 0)
        ts = jnp.where(in_order & jnp.all(jnp.isfinite(ts)), ts, jnp.nan)
    for name, value in (("rtol", rtol), ("atol", atol), ("dt0", dt0)):
        if not isinstance(value, Tracer):
            continue
        x = jax.lax.stop_gradient(jnp.asarray(value, ts.dtype))
        usable = is_usable_step(x, ts) if name == "dt0" else is_usable_tolerance(x)
        ts = jnp.where(usable, ts, jnp.nan)
    return ts


def checked_tolerance(name: str, x: Any, dtype: jnp.dtype, throw: bool) -> Any:
    """An array in `dtype`; a Python number, which takes on any dtype, as it is.

    Where it is traced, it is checked at run time if `throw` is set.
    """
    if x is None:
        return None
    if type(x) in (int, float):
        return float(x)  # an integer may be beyond an int32
    x = jnp.asarray(x, dtype)
    if throw and isinstance(x, Tracer):
        message = f"{name} must be positive and finite, such as {USUAL[name]}."
        x = eqx.error_if(x, ~is_usable_tolerance(x), message)
    return x
