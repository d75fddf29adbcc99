"""An explicit Runge-Kutta step from its tableau, in two forms."""

from collections.abc import Callable
from typing import Any, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import PyTree

from .fusion import fuses_through
from .noinline import noinline


Terms: TypeAlias = diffrax.AbstractTerm


def combine(y0: PyTree, weights: np.ndarray, stages: list[PyTree]) -> PyTree:
    """`y0 + sum_i weights[i] * stages[i]`, leaving out weights that are zero."""
    used = [(float(w), k) for w, k in zip(weights, stages, strict=False) if w != 0]

    def leaf(y, *ks):
        return y + sum(w * k for (w, _), k in zip(used, ks, strict=True))

    return jax.tree.map(leaf, y0, *[k for _, k in used])


def explicit_step(
    tableau: diffrax.ButcherTableau,
    terms: Terms,
    t0: Any,
    t1: Any,
    y0: PyTree,
    args: PyTree,
    first: PyTree,
) -> tuple[PyTree, list[PyTree], PyTree]:
    """One step from `t0` to `t1`, given `first = f(t0, y0)`.

    The increments are `k_i = prod(f_i, contr(t0, t1))` and never `(t1 - t0) * f_i`:
    Diffrax solves backwards in negated time, where only `contr` has the right sign.

    Returns:
        `y1`, the increments `k_i`, and the last stage's field value (for FSAL).
    """
    control = terms.contr(t0, t1)
    stages = [terms.prod(first, control)]
    y, f = y0, first
    vf = _staged(terms, args, t0, y0)
    for c, row in zip(tableau.c, tableau.a_lower, strict=True):
        y = combine(y0, row, stages)
        t = t1 if c == 1 else t0 + float(c) * (t1 - t0)
        f = vf(t, y)
        stages.append(terms.prod(f, control))
    y1 = y if tableau.ssal else combine(y0, tableau.b_sol, stages)
    return y1, stages, f


def explicit_step_in_a_loop(
    tableau: diffrax.ButcherTableau,
    terms: Terms,
    t0: Any,
    t1: Any,
    y0: PyTree,
    args: PyTree,
    first: PyTree,
) -> tuple[PyTree, PyTree]:
    """`explicit_step` as a loop over the stages, which compiles the field once.

    It is the slower form for small states, and equal to rounding.

    Returns:
        `y1`, and the last stage's field value.
    """
    control = terms.contr(t0, t1)
    num_stages = len(tableau.b_sol)
    rows = np.zeros((num_stages - 1, num_stages))
    for i, row in enumerate(tableau.a_lower):
        rows[i, : len(row)] = row
    dtype = jnp.result_type(t0)

    def sum_of(weights, stages):
        own = lambda k: jnp.tensordot(weights.astype(k.dtype), k, 1)
        return jax.tree.map(lambda y, k: y + own(k), y0, stages)

    def stage(i, carry):
        stages, _, _ = carry
        y = sum_of(jnp.asarray(rows, dtype)[i], stages)
        c = jnp.asarray(tableau.c, dtype)[i]
        f = terms.vf(jnp.where(c == 1, t1, t0 + c * (t1 - t0)), y, args)
        k = terms.prod(f, control)
        return jax.tree.map(lambda s, k: s.at[i + 1].set(k), stages, k), y, f

    start = terms.prod(first, control)
    # Times zero, so that they are of the kind of the stages that come (shard_map).
    stages = jax.tree.map(lambda k: jnp.stack([k, *[0 * k] * (num_stages - 1)]), start)
    stages, y, f = lax.fori_loop(0, num_stages - 1, stage, (stages, y0, first))
    y1 = y if tableau.ssal else sum_of(jnp.asarray(tableau.b_sol, dtype), stages)
    return y1, f


def _staged(terms: Terms, args: PyTree, t: Any, y: PyTree) -> Callable[..., PyTree]:
    """The field, to be called in each stage; traced once.

    Where XLA:CPU would fuse one call with the next, each is a piece of the program by
    itself (see `noinline.py`). What a piece hands on has to be written to memory. So of
    what the way back needs, only results that are dear are handed on, and the rest is
    computed again there, inside the loops that use it.
    """
    arrays, static = eqx.partition((terms, args), eqx.is_array)

    def vf(arrays, t, y):
        terms, args = eqx.combine(arrays, static)
        return terms.vf(t, y, args)

    program, out = jax.make_jaxpr(vf, return_shape=True)(arrays, t, y)
    rest, states = len(jax.tree.leaves((arrays, t))), len(jax.tree.leaves(y))

    def call(arrays, t, y):
        leaves = jaxpr_as_fun(program)(*jax.tree.leaves((arrays, t, y)))
        return jax.tree.unflatten(jax.tree.structure(out), leaves)

    if fuses_through(program.jaxpr, [False] * rest + [True] * states):
        call = noinline()(jax.checkpoint(call, prevent_cse=False, policy=_is_dear))
    return lambda t, y: call(arrays, t, y)


# Names of JAX's operations that cost no more than reading their result would.
_CHEAP = frozenset(
    """
    abs add add_any and broadcast_in_dim concatenate convert_element_type copy div eq
    expand_dims ge gt integer_pow iota le lt max min mul ne neg not or pad reshape rev
    select_n sign slice split square squeeze stop_gradient sub transpose
    """.split()
)


def _is_dear(operation: Any, *_: Any, **__: Any) -> bool:
    return operation.name not in _CHEAP
