"""Gradients with respect to the times, for any adjoint.

Values do not change: the two functions here are identities whose derivatives are

    dL/dt_i = <dL/dy(t_i), f(t_i, y(t_i))>    for a read-out time,
    dL/dt_0 = -<a(t_0), f(t_0, y(t_0))>       for the initial time,

so the solve itself may take its times as constants. The field is called only where a
time carries a tangent. (Chen et al. 2018, arXiv:1806.07366, appendix B.3.)
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


TWICE_MESSAGE = (
    "odeint is differentiated twice, the second time with respect to ts, which it does "
    "not support. Differentiate with respect to ts first, or make the times arguments: "
    "solve dy/ds = (t1 - t0) * field(t0 + (t1 - t0) * s, y) over ts=[0, 1] and pass t0 "
    "and t1 through `args`."
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def differentiated_once(x: Array, message: str) -> Array:
    """Ones, which raise a `ValueError` where `x` carries a tangent.

    A tangent passes the two identities below as it is. That is right to first order
    only, so tangents are multiplied by these ones, which cost nothing once compiled: a
    second derivative through the times is then an error and not a wrong number.
    """
    del message
    return jnp.ones_like(x)


@differentiated_once.defjvp
def _differentiated_once_jvp(message, primals, tangents):
    raise ValueError(message)


def _leading(t: Array, y: Array) -> Array:
    """`t` in the dtype of `y`, with axes added to broadcast along the others of `y`."""
    return jnp.reshape(t, t.shape + (1,) * (y.ndim - t.ndim)).astype(y.dtype)


def _add_scaled(y_dot: PyTree, y: PyTree, t_dot: Array, f: PyTree) -> PyTree:
    """`y_dot + t_dot * f`, with `None` tangents for zero; `t_dot` leads the axes."""

    def leaf(y_dot, y, f):
        term = _leading(t_dot, y) * f
        return term if y_dot is None else y_dot + term

    return jax.tree.map(leaf, y_dot, y, f, is_leaf=lambda x: x is None)


@eqx.filter_custom_jvp
def starts_at(y0: PyTree, t0: Array, field: Any, args: PyTree) -> PyTree:
    """`y0`, as the state of a trajectory that passes through it at `t0`."""
    del t0, field, args
    return y0


@starts_at.def_jvp
def _starts_at_jvp(primals, tangents):
    y0, t0, field, args = primals
    y0_dot, t0_dot, _, _ = tangents
    if t0_dot is not None:
        y0_dot = _add_scaled(y0_dot, y0, -t0_dot, field(t0, y0, args))
    return y0, y0_dot


@eqx.filter_custom_jvp
def reads_at(ys: PyTree, ts: Float[Array, " time"], field: Any, args: PyTree) -> PyTree:
    """`ys`, as the states of a trajectory at the times `ts`."""
    del ts, field, args
    return ys


@reads_at.def_jvp
def _reads_at_jvp(primals, tangents):
    ys, ts, field, args = primals
    ys_dot, ts_dot, _, _ = tangents
    if ts_dot is not None:
        fs = jax.lax.map(lambda t_y: field(t_y[0], t_y[1], args), (ts, ys))
        ys_dot = _add_scaled(ys_dot, ys, ts_dot, fs)
    # Whatever was differentiated has left a tangent here, so one guard is enough.
    once = differentiated_once(ts, TWICE_MESSAGE)
    guarded = lambda y, y_dot: None if y_dot is None else y_dot * _leading(once, y)
    return ys, jax.tree.map(guarded, ys, ys_dot)
