"""What a forward solve keeps, so that its steps can be repeated and differentiated.

The end of every step that was kept is noted: a number each. States are kept in a
bounded number of rows. When the rows are full every second one is dropped, and from
then on only the state of every second step (then fourth, eighth, ...) is kept. On the
way back a state that was not kept is computed again, from the nearest one before it.
(Griewank & Walther 2000, doi:10.1145/347837.347846, is about the best such schemes for
a known number of steps; here it is not known.)
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.lanes import any_lane, varying_like


class Room(NamedTuple):
    """How much a record may hold.

    Attributes:
        num_rows: States that are kept at most. Even.
        capacity: Steps that can be noted.
        with_jumps: Whether steps may start elsewhere than the one before ended.
    """

    num_rows: int
    capacity: int
    with_jumps: bool

    @property
    def can_overflow(self) -> bool:
        """Whether there may be more steps than rows."""
        return self.capacity > self.num_rows

    def record(self, t0: Array, y0: PyTree, solver_state: PyTree) -> "Record":
        """An empty record of a solve from `t0`."""
        length = self.capacity + 1
        rows = jax.tree.map(
            lambda x: jnp.zeros((self.num_rows + 1, *jnp.shape(x)), jnp.result_type(x)),
            (y0, eqx.filter(solver_state, eqx.is_array)),
        )
        jumps = None
        if self.with_jumps:
            jumps = jnp.zeros(length, t0.dtype), jnp.zeros(length, bool)
        return Record(
            room=self,
            t0=t0,
            ends=jnp.zeros(length, t0.dtype),
            jumps=jumps,
            rows=rows,
            stride=jnp.ones((), jnp.int32),
        )


class Record(eqx.Module):
    """The steps of a solve, indexed from 0.

    Attributes:
        room: How much there may be of it.
        t0: Where the first step started.
        ends: Where each step ended.
        jumps: Where each step started, and whether at a jump; `None` where each starts
            where the one before ended.
        rows: State and solver state at the start of the steps that are a multiple of
            `stride`. One row more than there is room for, for what is not kept.
        stride: Steps from row to row.
    """

    room: Room = eqx.field(static=True)
    t0: Float[Array, ""]
    ends: Float[Array, " step"]
    jumps: tuple[Float[Array, " step"], Bool[Array, " step"]] | None
    rows: PyTree[Array]
    stride: Int[Array, ""]

    def has_room(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the step of this number can be kept before rows are dropped."""
        if not self.room.can_overflow:
            return jnp.array(True)
        return step < self.room.num_rows * self.stride

    def with_step(
        self,
        step: Int[Array, ""],
        t0: Array,
        t1: Array,
        y: PyTree,
        solver_state: PyTree,
        made_jump: Array | None,
    ) -> "Record":
        """With a step that is tried; if it is thrown away, the next one replaces it."""
        row = step
        if self.room.can_overflow:
            is_kept = step % self.stride == 0
            row = jnp.where(is_kept, step // self.stride, self.room.num_rows)
        kept = (y, eqx.filter(solver_state, eqx.is_array))
        jumps = self.jumps
        if jumps is not None:
            starts, at_jump = jumps
            jumps = starts.at[step].set(t0), at_jump.at[step].set(made_jump)
        return dataclasses.replace(
            self,
            ends=self.ends.at[step].set(t1),
            jumps=jumps,
            rows=jax.tree.map(lambda rows, x: rows.at[row].set(x), self.rows, kept),
        )

    def thinned(self, num_steps: Int[Array, ""], goes_on: Bool[Array, ""]) -> "Record":
        """With every second row dropped, if all are in use and the solve goes on."""
        is_full = goes_on & ~self.has_room(num_steps)
        half = jnp.where(is_full, self.room.num_rows // 2, 0).astype(jnp.int32)

        # Row by row and in place, which takes no memory beside the rows.
        def move(carry):
            index, rows = carry
            source = jnp.where(index < half, 2 * index, index)
            rows = jax.tree.map(lambda r: r.at[index].set(r[source]), rows)
            return index + 1, rows

        start = varying_like(jnp.ones((), jnp.int32), num_steps)
        _, rows = lax.while_loop(
            lambda c: any_lane(c[0] < half), move, (start, self.rows)
        )
        stride = jnp.where(is_full, 2 * self.stride, self.stride)
        return dataclasses.replace(self, rows=rows, stride=stride)

    def times(self, step: Int[Array, ""]) -> tuple[Array, Array, Array | None]:
        """Where a step started and ended, and whether it started at a jump."""
        end = self.ends[step]
        if self.jumps is not None:
            starts, at_jump = self.jumps
            return starts[step], end, at_jump[step]
        start = jnp.where(step == 0, self.t0, self.ends[jnp.maximum(step - 1, 0)])
        return start, end, None

    def row(self, index: Int[Array, ""]) -> tuple[PyTree, PyTree]:
        """State and solver state that a row holds."""
        return jax.tree.map(lambda rows: rows[index], self.rows)

    def num_jumps(self, num_steps: Int[Array, ""]) -> Int[Array, ""]:
        """How many of the steps started at a jump."""
        if self.jumps is None:
            return jnp.zeros_like(num_steps)
        steps = jnp.arange(self.room.capacity + 1, dtype=jnp.int32)
        return jnp.sum(self.jumps[1] & (steps < num_steps), dtype=jnp.int32)
