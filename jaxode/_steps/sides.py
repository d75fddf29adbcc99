"""Which side of a jump a time lies on, and fields that are asked on the right one.

A field that jumps has two values at a jump, and which of them it returns there is its
own affair (`t < jump`, `t <= jump`). So it is never asked there, but at the floating
numbers just before and just after.
"""

from collections.abc import Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


_NEAR = 128
"""A jump so many roundings from an end of the interval lies on it."""


def just_after(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """The next floating number. After 0 it is no subnormal one, which counts as 0."""
    return jnp.where(t == 0, jnp.finfo(t.dtype).tiny, jnp.nextafter(t, jnp.inf))


def just_before(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """The floating number before, in the same way."""
    return -just_after(-t)


class Between(eqx.Module):
    """A field on an interval, at whose ends it may jump: asked inside only.

    Attributes:
        field: The field.
        first: The earliest time at which it is asked.
        last: The latest.
    """

    field: Any
    first: Float[Array, ""]
    last: Float[Array, ""]

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return self.field(jnp.clip(t, self.first, self.last), y, args)


def between(
    field: Any, start: Array, end: Array, jumps: Float[Array, " jump"] | None
) -> Any:
    """The field, to be asked between `start` and `end`, in either order.

    Steps end on jumps between the two; see to it with `controller_for`.
    """
    if jumps is None:
        return field
    low, high = jnp.minimum(start, end), jnp.maximum(start, end)
    width = _NEAR * jnp.finfo(low.dtype).eps
    slack = width * jnp.maximum(jnp.abs(low), jnp.abs(high))
    at_low = (jumps >= low) & (jumps <= low + slack)
    at_high = (jumps <= high) & (jumps >= high - slack)
    first = jnp.max(jnp.where(at_low, just_after(jumps), low))
    last = jnp.min(jnp.where(at_high, just_before(jumps), high))
    return Between(field, first, last)


class OneSided(eqx.Module):
    """A field that is asked beside a jump where it should be asked at one.

    Attributes:
        field: The field.
        jumps: Where it jumps.
        side: 1 for just after in time, -1 for just before.
    """

    field: Any
    jumps: Float[Array, " jump"]
    side: Int[Array, ""]

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        beside = jnp.where(self.side > 0, just_after(t), just_before(t))
        t = jnp.where(jnp.any(t == self.jumps), beside, t)
        return self.field(t, y, args)


def jump_times(controller: Any) -> Iterator[Array]:
    """The jumps that controllers of Diffrax's, inside of this one or it, know of."""
    is_clip = lambda x: isinstance(x, diffrax.ClipStepSizeController)
    for found in jax.tree.leaves(controller, is_leaf=is_clip):
        if is_clip(found) and found.jump_ts is not None:
            yield found.jump_ts


def end_of_first_piece(controller: Any, t0: Array, t1: Array) -> Array:
    """`t1`, or the time just before the first jump after `t0`, which is less."""
    width = _NEAR * jnp.finfo(t0.dtype).eps
    for jumps in jump_times(controller):
        times = jumps.astype(t0.dtype)
        comes = times > t0 + width * jnp.maximum(jnp.abs(t0), jnp.abs(times))
        t1 = jnp.minimum(t1, jnp.min(jnp.where(comes, just_before(times), t1)))
    return t1
