"""Gradients with respect to the times, for any adjoint.

Values do not change: the two functions here are identities whose derivatives are

    dL/dt_i = <dL/dy(t_i), f(t_i, y(t_i))>    for a read-out time,
    dL/dt_0 = -<a(t_0), f(t_0, y(t_0))>       for the initial time,

so the solve itself may take its times as constants. The field is called only where a
time carries a tangent. (Chen et al. 2018, arXiv:1806.07366, appendix B.3.)
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def _add_scaled(y_dot: PyTree, y: PyTree, t_dot: Array, f: PyTree) -> PyTree:
    """`y_dot + t_dot * f`, with `None` tangents for zero; `t_dot` leads the axes."""

    def leaf(y_dot, y, f):
        scale = jnp.reshape(t_dot, t_dot.shape + (1,) * (y.ndim - t_dot.ndim))
        term = scale.astype(y.dtype) * f
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
    return ys, ys_dot
