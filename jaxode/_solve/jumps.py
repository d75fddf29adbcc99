"""The times at which a field jumps, as `odeint` is given them."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._steps.sides import OneSided
from .arguments import is_concrete


DIFFERENTIATED_MESSAGE = (
    "odeint's jumps are differentiated, and to it they are constants: the derivative "
    "by the time of a jump would be missing. Pass jumps=jax.lax.stop_gradient(...) "
    "where it is not wanted. Where it is, solve in two pieces that meet there, "
    "ts=[t0, jump] and ts=[jump, t1], each with jumps=jax.lax.stop_gradient(jump)."
)


def check_jumps(jumps: Any) -> None:
    """Checks what there is to see of the times before a solve.

    Raises:
        TypeError: where they are no floating-point numbers.
        ValueError: where they have more than one axis, or one is a NaN.
    """
    if jumps is None:
        return
    try:
        dtype, shape = jnp.result_type(*jax.tree.leaves(jumps)), np.shape(jumps)
    except (TypeError, ValueError):
        dtype, shape = None, ()
    if shape == (0,):
        return
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        is_integer = dtype is not None
        found = f"dtype {dtype}" if is_integer else repr(jumps)
        raise TypeError(
            f"jumps must be floating-point times; got {found}. Pass such as "
            "jumps=jnp.array([0.5, 1.0])."
        )
    if len(shape) > 1:
        raise ValueError(
            f"jumps has shape {shape}; pass the times in one dimension, such as "
            "jumps=jnp.array([0.5, 1.0]), and use jax.vmap where samples have their "
            "own."
        )
    leaves = [jax.lax.stop_gradient(leaf) for leaf in jax.tree.leaves(jumps)]
    if all(map(is_concrete, leaves)) and np.isnan(np.hstack(leaves)).any():
        raise ValueError(
            f"jumps holds a NaN: {jumps}; leave it out, or pass a time outside of ts, "
            "such as jnp.inf, to fill up an array."
        )


def jumps_for(
    jumps: Any, ts: Float[Array, " time"], throw: bool
) -> Float[Array, " jump"] | None:
    """The times in the precision of `ts`, sorted; `None` where there are none.

    Where they are traced, a NaN among them raises at run time if `throw` is set.
    """
    if jumps is None or np.shape(jumps) == (0,):
        return None
    times = jnp.sort(jnp.atleast_1d(jnp.asarray(jumps, ts.dtype)))
    times = _constant(times)
    if throw and not is_concrete(times):
        message = "jumps holds a NaN; pass jnp.inf to fill up an array."
        times = eqx.error_if(times, jnp.isnan(times), message)
    return times


@eqx.filter_custom_jvp
def _constant(times: Array) -> Array:
    return times


@_constant.def_jvp
def _constant_jvp(primals, tangents):
    if tangents[0] is not None:
        raise ValueError(DIFFERENTIATED_MESSAGE)
    return primals[0], None


def check_stages(solver: Any) -> None:
    """Raises `ValueError` for a solver that looks beyond the end of its steps."""
    inner = getattr(solver, "solver", solver)
    tableau = getattr(inner, "tableau", None)
    if (
        isinstance(tableau, diffrax.ButcherTableau)
        and (np.asarray(tableau.c) > 1).any()
    ):
        raise ValueError(
            f"{type(inner).__name__} asks the field beyond the end of a step, at "
            f"{np.max(tableau.c):.3g} of its length, which is on the wrong side of a "
            "jump; with jumps=... pass diffrax.Kvaerno3() or an explicit solver."
        )


def void_if_unknown(
    ts: Float[Array, " time"], jumps: Float[Array, " jump"] | None
) -> Float[Array, " time"]:
    """The times of a solve, NaN where one of the jumps is, so that the solve fails."""
    if jumps is None or is_concrete(jumps):
        return ts
    return jnp.where(jnp.any(jnp.isnan(jumps)), jnp.nan, ts)


def either_side(
    field: Any, jumps: Float[Array, " jump"] | None, ts: Float[Array, " time"]
) -> tuple[Any, Any]:
    """The field as a solve leaves a time, and as it arrives there.

    The two differ at a jump, by what the field is just after it and just before.
    """
    if jumps is None:
        return field, field
    along = jnp.where(ts[-1] >= ts[0], 1, -1)
    return OneSided(field, jumps, along), OneSided(field, jumps, -along)
