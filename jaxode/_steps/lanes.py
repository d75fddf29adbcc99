"""Loops that stay cheap under `jax.vmap`, and can be traced in `jax.shard_map`.

JAX batches a `while_loop` whose predicate is batched by running it for the longest and,
in every turn, choosing between the old and the new value of everything that the loop
carries: whole buffers for one row that was written. Where the predicate is not batched
it does not. So these loops ask whether ANY lane goes on, and their bodies write, for a
lane that is done, what was there before.

In `jax.shard_map` an array's type tells over which axes of the mesh it varies, and what
a loop carries must not change its type: constants are to vary from the start.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree

from .._jax_versions import as_varying, varies_over


@custom_vmap
def any_lane(goes_on: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether it holds in any lane of all `jax.vmap` around; itself outside of one."""
    return goes_on


@any_lane.def_vmap
def _any_lane_batched(axis_size, in_batched, goes_on):
    del axis_size
    return any_lane(jnp.any(goes_on) if in_batched[0] else goes_on), False


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition` holds, `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def varying_like(tree: PyTree, *sources: Any, but: tuple[str, ...] = ()) -> PyTree:
    """`tree`, its arrays varying over all axes of a mesh that any of `sources` does.

    Outside of `jax.shard_map` there are none.

    Args:
        tree: Any.
        *sources: Any.
        but: Axes that are left out.
    """
    return varying_over(tree, axes_of(sources) - set(but))


def varying_over(tree: PyTree, axes: Iterable[str]) -> PyTree:
    """`tree`, its arrays varying over these axes of a mesh besides their own."""

    def leaf(x):
        missing = set(axes) - varies_over(x)
        return as_varying(x, tuple(sorted(missing))) if missing else x

    return jax.tree.map(lambda x: leaf(x) if isinstance(x, jax.Array) else x, tree)


def typed_as(tree: PyTree, like: PyTree) -> PyTree:
    """`tree`, each array varying over the axes that its counterpart varies over.

    It may have `None` in place of any of them.
    """
    cast = lambda x, y: x if x is None else varying_over(x, axes_of(y))
    return jax.tree.map(cast, tree, like, is_leaf=lambda x: x is None)


def axes_of(tree: PyTree) -> frozenset[str]:
    """The axes of a mesh that anything in `tree` varies over."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            axes |= varies_over(leaf)
    return axes
