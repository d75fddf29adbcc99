"""What a forward solve keeps, so that its steps can be repeated and differentiated.

The end of every step that was kept is noted: a number each. States are kept in a
bounded number of rows. When the rows are full every second one is dropped, and from
then on only the state of every second step (then fourth, eighth, ...) is kept. On the
way back a state that was not kept is computed again, from the nearest one before it.
(Griewank & Walther 2000, doi:10.1145/347837.347846, is about the best such schemes for
a known number of steps; here it is not known.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.lanes import any_lane, varying_like


class Record(eqx.Module):
    """The steps of a solve, indexed from 0.

    Attributes:
        num_rows: States that are kept at most. Even.
        capacity: Steps that can be noted.
        with_jumps: Whether steps may start elsewhere than the one before ended.
        ends: Where each step ended.
        starts: Where each step started; `None` where that is the end of the one before.
        jumps: Whether each started at a jump; `None` likewise.
        rows: State and solver state at the start of the steps that are a multiple of
            `stride`. One row more than `num_rows`, for what is not kept.
        stride: Steps from row to row.
        t0: Where the first step started.
    """

    num_rows: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    with_jumps: bool = eqx.field(static=True)
    ends: Float[Array, " step"] | None = None
    starts: Float[Array, " step"] | None = None
    jumps: Bool[Array, " step"] | None = None
    rows: PyTree[Array] = None
    stride: Int[Array, ""] | None = None
    t0: Float[Array, ""] | None = None

    @property
    def can_overflow(self) -> bool:
        """Whether there may be more steps than rows."""
        return self.capacity > self.num_rows

    def started(self, t0: Array, y0: PyTree, solver_state: PyTree) -> "Record":
        """An empty record of a solve from `t0`."""
        room = self.capacity + 1
        rows = jax.tree.map(
            lambda x: jnp.zeros((self.num_rows + 1, *jnp.shape(x)), jnp.result_type(x)),
            (y0, eqx.filter(solver_state, eqx.is_array)),
        )
        return Record(
            num_rows=self.num_rows,
            capacity=self.capacity,
            with_jumps=self.with_jumps,
            ends=jnp.zeros(room, t0.dtype),
            starts=jnp.zeros(room, t0.dtype) if self.with_jumps else None,
            jumps=jnp.zeros(room, bool) if self.with_jumps else None,
            rows=rows,
            stride=jnp.ones((), jnp.int32),
            t0=t0,
        )

    def has_room(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the step of this number can be kept before rows are dropped."""
        if not self.can_overflow:
            return jnp.array(True)
        return step < self.num_rows * self.stride

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
        if self.can_overflow:
            is_kept = step % self.stride == 0
            row = jnp.where(is_kept, step // self.stride, self.num_rows)
        kept = (y, eqx.filter(solver_state, eqx.is_array))
        rows = jax.tree.map(lambda rows, x: rows.at[row].set(x), self.rows, kept)
        changed = [self.ends.at[step].set(t1), rows]
        if self.with_jumps:
            changed += [
                self.starts.at[step].set(t0),
                self.jumps.at[step].set(made_jump),
            ]
        where = lambda r: (
            [r.ends, r.rows] + ([r.starts, r.jumps] if self.with_jumps else [])
        )
        return eqx.tree_at(where, self, changed)

    def thinned(self, num_steps: Int[Array, ""], goes_on: Bool[Array, ""]) -> "Record":
        """With every second row dropped, if all are in use and the solve goes on."""
        is_full = goes_on & ~self.has_room(num_steps)
        half = jnp.where(is_full, self.num_rows // 2, 0).astype(jnp.int32)

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
        return eqx.tree_at(lambda r: (r.rows, r.stride), self, (rows, stride))

    def times(self, step: Int[Array, ""]) -> tuple[Array, Array, Array | None]:
        """Where a step started and ended, and whether it started at a jump."""
        end = self.ends[step]
        if self.with_jumps:
            return self.starts[step], end, self.jumps[step]
        start = jnp.where(step == 0, self.t0, self.ends[jnp.maximum(step - 1, 0)])
        return start, end, None

    def row(self, index: Int[Array, ""]) -> tuple[PyTree, PyTree]:
        """State and solver state that a row holds."""
        return jax.tree.map(lambda rows: rows[index], self.rows)

    def num_jumps(self, num_steps: Int[Array, ""]) -> Int[Array, ""]:
        """How many of the steps started at a jump."""
        if self.jumps is None:
            return jnp.zeros_like(num_steps)
        steps = jnp.arange(self.capacity + 1, dtype=jnp.int32)
        return jnp.sum(self.jumps & (steps < num_steps), dtype=jnp.int32)
