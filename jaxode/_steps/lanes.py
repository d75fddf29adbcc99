"""Loops that stay cheap under `jax.vmap`.

JAX batches a `while_loop` whose predicate is batched by running it for the longest and,
in every turn, choosing between the old and the new value of everything that the loop
carries: whole buffers for one row that was written. Where the predicate is not batched
it does not. So these loops ask whether ANY lane goes on, and their bodies write, for a
lane that is done, what was there before.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, PyTree


@custom_vmap
def any_lane(goes_on: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether it holds in any lane of every `jax.vmap` around; itself outside of one."""
    return goes_on


@any_lane.def_vmap
def _any_lane_batched(axis_size, in_batched, goes_on):
    del axis_size
    return any_lane(jnp.any(goes_on) if in_batched[0] else goes_on), False


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition` holds, `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
