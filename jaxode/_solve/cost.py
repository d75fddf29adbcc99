"""Integrals along the solution: `odeint(..., cost=cost)`.

The state is `Carried(y, integral)`, and every adjoint, read-out and time derivative
takes it like any other. Only controllers are shown the state alone.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._steps.carried import Carried
from .arguments import precision
from .closures import check_output, shape_of
from .failures import checked, SolveError


class WithCost(eqx.Module):
    """A field and a cost as one field."""

    field: Any
    cost: Any

    def __call__(self, t: Any, y: Carried, args: PyTree) -> Carried:
        rate = _as_arrays(self.cost(t, y.y, args), y.sums)
        return Carried(self.field(t, y.y, args), rate)


def with_cost(
    field: Any, cost: Any, t: Array, y0: PyTree[Array], args: PyTree
) -> tuple[WithCost, Carried]:
    """Field and start of a solve that integrates the cost as well.

    Raises:
        TypeError: where the cost is not callable, or not of the state's precision.
        ValueError: where the field's output is not shaped like `y0`.
    """
    if not callable(cost):
        raise TypeError(f"cost must be callable as cost(t, y, args); got {cost!r}.")
    if callable(field):
        check_output(eqx.filter_eval_shape(field, t, y0, args), y0)
    found = eqx.filter_eval_shape(cost, t, y0, args)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    if not leaves:
        raise ValueError(
            f"cost(t, y, args) returned {shape_of(found)}, which holds no number; "
            "return one, an array, or a pytree of these."
        )
    real = precision(y0)
    zeros = []
    for path, leaf in leaves:
        where = "cost(t, y, args)" + jax.tree_util.keystr(path)
        dtype = _dtype(leaf, real)
        if not jnp.issubdtype(dtype, jnp.inexact) or jnp.finfo(dtype).dtype != real:
            raise TypeError(
                f"{where} has dtype {dtype}, and the state is in {real}; return "
                f"it as jnp.asarray(..., jnp.{real})."
            )
        zeros.append(jnp.zeros(np.shape(leaf), dtype))
    sums = jax.tree.unflatten(jax.tree.structure(found), zeros)
    return WithCost(field, cost), Carried(y0, sums)


def _dtype(leaf: Any, real: Any) -> Any:
    """That of a cost; a Python float takes on the state's."""
    if isinstance(leaf, float | complex):
        return jnp.result_type(leaf, real) if isinstance(leaf, complex) else real
    return leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)


def _as_arrays(rate: PyTree, sums: PyTree[Array]) -> PyTree[Array]:
    """The cost's values, which are to be those of the first call in kind."""
    same = jax.tree.structure(rate) == jax.tree.structure(sums) and all(
        jnp.shape(r) == s.shape and _dtype(r, jnp.finfo(s.dtype).dtype) == s.dtype
        for r, s in zip(jax.tree.leaves(rate), jax.tree.leaves(sums), strict=True)
    )
    if not same:
        raise ValueError(
            f"cost(t, y, args) returned {shape_of(rate)}, and {shape_of(sums)} when it "
            "was called first; it must return the same structure, shapes and dtypes "
            "in every call. Choose by jnp.where inside, not by Python's if."
        )
    return jax.tree.map(lambda r, s: jnp.asarray(r, s.dtype), rate, sums)


def raise_if_unknown(ys: Carried, ts: Array) -> Carried:
    """`ys`, or a `SolveError` where an integral is a NaN or infinite."""
    fine = [_rows_are_finite(leaf) for leaf in jax.tree.leaves(ys.sums)]
    fine = jax.lax.stop_gradient(jnp.all(jnp.stack(fine), axis=0))

    def check(fine: Any, ts: Any) -> np.ndarray:
        fine, ts = np.asarray(fine), np.asarray(ts)
        if not fine.all():
            *lane, row = np.unravel_index(np.argmin(fine), fine.shape)
            times = np.broadcast_to(ts, (*fine.shape[:-1], ts.shape[-1]))[tuple(lane)]
            raise SolveError(
                f"The integral of the cost up to t={times[row + 1]:.6g} is a NaN or "
                "infinite, and the state is not: cost(t, y, args) gave one in a step "
                "up to there or across. Check it for a square root or a logarithm that "
                "leaves its domain."
            )
        return np.ones(fine.shape[:-1], bool)

    return checked(ys, jnp.all(fine), check, fine, ts)


def _rows_are_finite(rows: Array) -> Array:
    return jnp.all(jnp.isfinite(jnp.reshape(rows, (rows.shape[0], -1))), axis=1)
