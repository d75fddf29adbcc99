"""The first of an event's two solves: when it happens, and which one it is."""

import dataclasses
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .crossing import locate
from .diffrax_calls import forward_calls
from .event_functions import Event, values_of
from .failures import raise_if_failed, raise_where
from .integrate import Integral
from .loop import run_watched
from .loop_state import State
from .settings import SolveSettings
from .setup import prepare, Setup
from .stats import SolveStats
from .watch import Watched


class FoundEvent(NamedTuple):
    """Where a solve ends.

    Attributes:
        t: The time of the event, or the last of the times.
        which: The event; 0 if there is none.
        happened: Whether there is one.
        broken: The event that was NaN; -1 if there is none.
        t_broken: When it was.
        solve: The solve that found it. It reads nothing.
    """

    t: Float[Array, ""]
    which: Int[Array, ""]
    happened: Bool[Array, ""]
    broken: Int[Array, ""]
    t_broken: Float[Array, ""]
    solve: Integral

    def checked(self, max_steps: int | None) -> "FoundEvent":
        """Itself, or a `SolveError` where the solve failed."""
        t = raise_where(self.t, self.broken + 1, self.t_broken, _broken_message)
        # It stopped there by itself, which is told already.
        success = self.solve.stats.success | (self.broken >= 0)
        solve = eqx.tree_at(lambda s: s.stats.success, self.solve, success)
        return self._replace(t=raise_if_failed(t, solve, "The solve", max_steps))


def _broken_message(code: int, t: float) -> str:
    return (
        f"The event (number {code - 1}, counted from 0) returned NaN at t={t:.6g}, so "
        "it is not known whether it has happened. An event must be defined on both "
        "sides of zero, and wherever the solution goes before it; look for a square "
        "root or a logarithm in it, or a division by zero."
    )


def find_event(
    field: Any,
    events: tuple[Event, ...],
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
    directions: tuple[int, ...],
) -> FoundEvent:
    """Solves until one of the events crosses zero; nothing here is differentiated.

    Args:
        field: Vector field.
        events: As `check_events` returns them.
        y0: State at `ts[0]`.
        args: Handed to both.
        ts: Times.
        settings: How.
        directions: As `check_directions` returns them.
    """
    setup = prepare(field, args, settings.times_of(ts), settings.for_times(ts))
    direction = jnp.ones((), ts.dtype) if setup.direction is None else setup.direction
    values = lambda t, y: values_of(events, args, t * direction, y)
    watched = Watched.start(setup, values, directions, y0)
    solve, state = run_watched(setup, y0, watched)
    t, which, tried = locate(setup, state)
    watched: Any = state.watched
    results, found = diffrax.RESULTS, watched.found
    result = results.where(found, results.successful, solve.result)
    at_end = watched.at_end(setup, state.y) & (result == results.successful) & ~found
    result = results.where(watched.broken >= 0, results.internal_error, result)
    stats = _stats_of(setup, state, solve.stats, found, tried)
    success = result == results.successful
    solve = dataclasses.replace(
        solve,
        result=result,
        stats=dataclasses.replace(stats, success=success),
    )
    return FoundEvent(
        t=jnp.where(found, t * direction, ts[-1]),
        which=jnp.where(found, which, jnp.argmax(at_end).astype(which.dtype)),
        happened=found | jnp.any(at_end),
        broken=watched.broken,
        t_broken=watched.t_broken * direction,
        solve=solve,
    )


def _stats_of(
    setup: Setup, state: State, stats: SolveStats, found: Array, tried: Array
) -> SolveStats:
    """Counts of the first solve, with what locating the event took."""
    # The step in which it lies was kept, if only as far as the event.
    accepted = stats.num_accepted_steps + found.astype(jnp.int32)
    nfe = stats.nfe
    if nfe is not None:
        none = jnp.zeros_like(tried)
        is_first = stats.num_accepted_steps == 0
        jumped = False if state.made_jump is None else state.made_jump
        calls = forward_calls(
            setup.solver,
            tried,
            jnp.where(is_first, tried, 0),
            jnp.where(jumped, tried + found.astype(jnp.int32), 0),
            none,
        )
        offset = forward_calls(setup.solver, none, none, none, none)
        # Each step is followed by a call at its end; and one is made at the first and
        # one at the last time. The calls of an implicit solver's are not counted here.
        if calls is None or offset is None:
            nfe = None
        else:
            nfe = nfe + calls - offset + tried + 2
    return dataclasses.replace(
        stats,
        nfe=nfe,
        num_accepted_steps=accepted,
        num_rejected_steps=stats.num_steps - accepted,
    )
