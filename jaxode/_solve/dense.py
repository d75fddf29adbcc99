"""The solution between the times asked for: `odeint(..., dense=True)`, `evaluate`.

A first solve, without gradient, notes where its steps end. The second one reads the
state there, under whatever adjoint was asked for, and is differentiated like any other.
From the last of these knots before `t` one step of the solver leads to the state at
`t`: no longer than the step that was accepted there, so it is as accurate, which the
solver's own interpolant, of a lower order, is not.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .._steps.carried import Carried
from .arguments import as_constant, is_concrete
from .control import can_jump
from .jumps import either_side
from .loop import run
from .record import Room
from .settings import SolveSettings
from .setup import prepare
from .stats import SolveStats
from .time_gradient import reads_at


class Knots(eqx.Module):
    """Where the steps of a solve start and end, among the times asked for.

    Attributes:
        ts: The knots: the first time, where each step ended, and the last time as often
            as there is room.
        merged_ts: These and the times asked for, in order.
        place: Where in it each of the times asked for is, and then each knot.
        calls: Field calls of the solve that found them, where they are known.
    """

    ts: Float[Array, " knot"]
    merged_ts: Float[Array, " both"]
    place: Int[Array, " all"]
    calls: Int[Array, ""] | None

    def taken_from(
        self, y0: PyTree[Array], ys: PyTree[Array], reached: Array, problem: PyTree
    ) -> tuple[PyTree[Array], "Dense"]:
        """From the state at `merged_ts[1:]`, that at the times asked for, and the rest.

        Args:
            y0: The state at the first time.
            ys: At the others.
            reached: The last time reached.
            problem: Field, `args` and settings.
        """
        rows = jax.tree.map(lambda y, ys: jnp.concatenate([y[None], ys]), y0, ys)
        pick = lambda where: jax.tree.map(lambda rows: rows[where], rows)
        asked = len(self.place) - len(self.ts)
        dense = Dense.of(self.ts, pick(self.place[asked:]), reached, problem)
        return pick(self.place[1:asked]), dense

    def counted_in(self, stats: SolveStats) -> SolveStats:
        """With the calls that it took to find the knots."""
        if stats.nfe is None or self.calls is None:
            return stats
        return dataclasses.replace(stats, nfe=stats.nfe + self.calls)


def knots_of(
    field: Any, y0: PyTree[Array], args: PyTree, ts: Array, settings: SolveSettings
) -> Knots:
    """The knots of a solve at the times `ts`.

    Raises:
        ValueError: where there is no bound on the steps.
    """
    if settings.max_steps is None:
        raise ValueError(
            "dense=True keeps a state for each of max_steps, and max_steps is None; "
            "pass a bound such as max_steps=256."
        )
    ends, calls = _step_ends(as_constant((field, y0, args, settings)), ts)
    both = jnp.concatenate([ts, ends])
    order = jnp.argsort(jnp.where(ts[-1] >= ts[0], both, -both), stable=True)
    asked, later = jnp.split(jnp.argsort(order), [len(ts)])
    # The first knot is the first time, whose state is given and not read.
    place = jnp.concatenate([asked, jnp.zeros_like(asked[:1]), later])
    return Knots(jnp.concatenate([ts[:1], ends]), both[order], place, calls)


@eqx.filter_jit
def _step_ends(problem, ts):
    field, y0, args, settings = problem
    # Fixed steps end on all the times, adaptive ones only know the last.
    times = ts if settings.controller is None else jnp.stack([ts[0], ts[-1]])
    setup = prepare(field, args, times, settings)
    room = Room(2, settings.max_steps, can_jump(settings))
    solve, record, _ = run(setup, y0, room)
    assert record is not None
    ends = record.ends[: settings.max_steps]
    taken = jnp.arange(len(ends), dtype=jnp.int32) < solve.stats.num_accepted_steps
    if setup.direction is not None:
        ends = ends * setup.direction
    return jnp.where(taken, ends, ts[-1]), solve.stats.nfe


class Held(eqx.Module):
    """A tree without arrays as one hashable value, to be part of compiled programs."""

    tree: PyTree


class Dense(eqx.Module):
    """What `Solution.evaluate` needs of a solve.

    Attributes:
        knots: As in `Knots`.
        ys: The state there.
        reached: The last time reached.
        arrays: Those of the field, its `args` and the settings.
        static: The rest of these.
    """

    knots: Float[Array, " knot"]
    ys: PyTree[Array]
    reached: Float[Array, ""]
    arrays: PyTree[Array]
    static: Held = eqx.field(static=True)

    @classmethod
    def of(cls, knots: Array, ys: PyTree, reached: Array, problem: PyTree) -> "Dense":
        """Of field, `args` and settings, and the state at the knots."""
        arrays, static = eqx.partition(problem, eqx.is_array)
        return cls(knots, ys, reached, arrays, Held(static))

    def evaluate(self, t: Float[Array, "*times"]) -> PyTree[Array]:
        """The state at times within the solve; NaN elsewhere."""
        times = jnp.ravel(t)
        ys = jax.vmap(self._at)(jax.lax.stop_gradient(times))
        field, args, settings = self._problem()
        _, arriving = either_side(field, settings.jumps, self.knots)
        ys = reads_at(ys, times, arriving, args)
        ys = ys.y if isinstance(ys, Carried) else ys
        return jax.tree.map(lambda y: jnp.reshape(y, t.shape + y.shape[1:]), ys)

    def _problem(self) -> tuple[Any, PyTree, SolveSettings]:
        return eqx.combine(self.arrays, self.static.tree)

    def _at(self, t: Float[Array, ""]) -> PyTree[Array]:
        field, args, settings = self._problem()
        start, reached = self.knots[0], self.reached
        backwards = reached < start
        along = lambda t: jnp.where(backwards, -t, t)
        before = jnp.searchsorted(along(self.knots), along(t), side="right") - 1
        before = jnp.clip(before, 0, len(self.knots) - 1)
        y = jax.tree.map(lambda rows: rows[before], self.ys)
        inside = (along(t) >= along(start)) & (along(t) <= along(reached))

        # One step, in the loop's time, which increases.
        ends = jnp.stack([self.knots[before], jnp.where(inside, t, start)])
        setup = prepare(field, args, ends, settings)
        t0, t1 = setup.ts[0], setup.ts[1]
        term, solver = setup.term, setup.solver
        state = solver.init(term, t0, t1, y, setup.args)
        y, *_ = solver.step(term, t0, t1, y, setup.args, state, False)
        return jax.tree.map(lambda y: jnp.where(inside, y, jnp.nan), y)


def times_within(t: Any, dense: Dense) -> Float[Array, "*times"]:
    """`t` as an array.

    Raises:
        TypeError: where it is no number.
        ValueError: for a time outside of the solve that is not traced.
    """
    try:
        times = jnp.asarray(t, dense.knots.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"evaluate takes a time or an array of times; got {t!r}."
        ) from error
    shown = jax.lax.stop_gradient((times, dense.knots[0], dense.reached))
    if all(map(is_concrete, shown)) and jnp.ndim(dense.reached) == 0:
        values, start, reached = map(np.asarray, shown)
        low, high = min(start, reached), max(start, reached)
        outside = values[~((values >= low) & (values <= high))]
        if outside.size:
            raise ValueError(
                f"evaluate got t={outside.flat[0]:.6g}, outside of the solve, which "
                f"goes from {start:.6g} to {reached:.6g}; pass times within, or solve "
                "further. (Under jax.jit such a time gives NaN.)"
            )
    return times
