"""The discrete adjoint: the steps that were taken, differentiated, last one first.

A solve is a chain of steps, (y_k+1, s_k+1) = step(t_k, t_k+1, y_k, s_k, p), with the
solver's own state s (the first stage of the next step, for a FSAL method) and the
parameters p. The way back pulls the cotangents through it, last step first,

    (dL/dy_k, dL/ds_k) = (dL/dy_k+1, dL/ds_k+1) d step/d(y_k, s_k),
    dL/dp += (dL/dy_k+1, dL/ds_k+1) d step/dp,

and a read-out between two steps is an output of the step in which it lies. This is
the gradient of the numbers that were computed, exact to rounding: discretise, then
optimise. The times of the steps are constants, and steps that were thrown away are no
part of it (where such a step has left the field's domain, its derivative may be
infinite, and zero times that is NaN).

What is kept of the forward solve, and what is computed again, is told in `record.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from .._steps.lanes import any_lane, choose, varying_like
from .adjoints import Discrete
from .control import can_jump
from .diffrax_calls import forward_calls
from .integrate import Integral
from .loop import run
from .own_gradient import parameters_of, Problem, with_own_gradient
from .record import Record, Room
from .settings import SolveSettings
from .setup import prepare
from .stats import SolveCounts
from .step_back import Cotangents, Steps


MOST_STEPS = 2**18
"""Steps that can be differentiated where `max_steps` is `None`."""


def solve_by_discrete(
    field: Any,
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
    captured: PyTree[Array],
    probe: SolveCounts | None,
) -> Integral:
    """Solves, with the discrete adjoint.

    Args:
        field: Vector field.
        y0: State at `ts[0]`.
        args: Passed to the field.
        ts: Times, not differentiated.
        settings: As `SolveSettings.for_times` returns them; the adjoint a `Discrete`.
        captured: Arrays that the field closes over.
        probe: Receives the backward counts as its cotangent.
    """
    probe = SolveCounts.zeros() if probe is None else probe
    problem = Problem(y0, field, args, captured, probe, ts, settings)
    return with_own_gradient(problem, _forward, _pull_back)


def _forward(problem: Problem, keep: bool) -> tuple[Integral, "Kept | None"]:
    """The solve, with what the way back needs if it is to be kept."""
    settings = problem.settings
    room = _room(problem) if keep else None
    if room is not None:
        settings = dataclasses.replace(settings, max_steps=room.capacity)
    setup = prepare(problem.field, problem.args, problem.ts, settings)
    out, record, next_read = run(setup, problem.y0, room)
    if record is None:
        return out, None
    return out, Kept(record, out.stats.num_accepted_steps, next_read)


def _room(problem: Problem) -> Room:
    """Room for the steps of a solve, within the adjoint's bound."""
    settings = problem.settings
    assert isinstance(settings.adjoint, Discrete)
    capacity = settings.max_steps or MOST_STEPS
    # With each state its first stage, as long as the state itself.
    row_bytes = 2 * sum(y.nbytes for y in jax.tree.leaves(problem.y0))
    num_rows = settings.adjoint.num_rows(row_bytes, capacity)
    return Room(num_rows, capacity, can_jump(settings))


class Kept(NamedTuple):
    """What the way back knows of the forward solve.

    Attributes:
        record: The steps.
        num_steps: Their number.
        next_read: Index of the first of `ts` that was not read within a step.
    """

    record: Record
    num_steps: Int[Array, ""]
    next_read: Int[Array, ""]


def _pull_back(
    problem: Problem, perturbed: Problem, kept: Kept, ys_bar: PyTree[Array]
) -> dict[str, PyTree]:
    """The cotangents of what was perturbed, by the names in `Problem`."""
    steps = Steps(problem, *parameters_of(problem, perturbed))
    record = kept.record
    y0, solver_state = record.row(jnp.zeros((), jnp.int32))

    # The last state is what every row of `ys` holds that was not read within a step.
    is_last = jnp.arange(1, len(problem.ts), dtype=jnp.int32) >= kept.next_read
    of_last = lambda bar: jnp.tensordot(is_last.astype(bar.dtype), bar, 1)
    inexact = eqx.filter(solver_state, eqx.is_inexact_array)
    bars = Cotangents(
        y=jax.tree.map(of_last, ys_bar),
        solver=jax.tree.map(jnp.zeros_like, inexact),
        parameters=jax.tree.map(jnp.zeros_like, steps.parameters),
        read=kept.next_read,
    )
    bars = varying_like(bars, problem.y0, steps.parameters, record, ys_bar)

    # Step by step, from the last to the first.
    repeated = jnp.zeros_like(kept.num_steps)
    if record.room.can_overflow:
        bars, repeated = _through_sparse_record(steps, kept, bars, ys_bar)
    else:
        states = lambda step: record.row(step)
        bars = _through(steps, kept, states, kept.num_steps, 0, bars, ys_bar)

    # Times that equal the first one, which lie in no step.
    is_first = jnp.arange(1, len(problem.ts), dtype=jnp.int32) < bars.read
    of_first = lambda bar: jnp.tensordot(is_first.astype(bar.dtype), bar, 1)
    y_bar = jax.tree.map(lambda y, bar: y + of_first(bar), bars.y, ys_bar)

    # What the solver computed before its first step.
    init_bar, parameters_bar = steps.pull_init(record.ends[0], y0, bars.solver)
    y_bar = jax.tree.map(jnp.add, y_bar, init_bar)
    field_bar, args_bar = jax.tree.map(jnp.add, bars.parameters, parameters_bar)
    counts = _counts(steps, kept, repeated)
    return dict(y0=y_bar, field=field_bar, args=args_bar, probe=counts)


def _counts(steps: Steps, kept: Kept, repeated: Int[Array, ""]) -> SolveCounts:
    none = jnp.zeros_like(kept.num_steps)
    jumps = kept.record.num_jumps(kept.num_steps)
    calls = forward_calls(steps.setup.solver, kept.num_steps, none, jumps, none)
    return SolveCounts.of(
        nfe=jnp.nan if calls is None else calls,
        num_steps=kept.num_steps,
        num_accepted_steps=kept.num_steps,
        num_repeated_steps=repeated,
        num_solves=1,
    )


def _through(
    steps: Steps,
    kept: Kept,
    state_at: Callable[[Int[Array, ""]], PyTree],
    stop: Int[Array, ""],
    start: Int[Array, ""] | int,
    bars: Cotangents,
    ys_bar: PyTree[Array],
) -> Cotangents:
    """Pulls back through the steps from `start` to before `stop`, last one first.

    Args:
        steps: The steps.
        kept: Their times.
        state_at: State and solver state at the start of the step of a number.
        stop: One past the first to be pulled back.
        start: The last.
        bars: Cotangents after the first.
        ys_bar: Those of the state at `ts[1:]`.
    """

    def body(carry):
        left, bars = carry
        active, step = left > start, jnp.maximum(left - 1, 0)
        times = kept.record.times(step)
        new = steps.pull(times, state_at(step), bars, ys_bar, active)
        return jnp.where(active, step, left), choose(active, new, bars)

    carry = lax.while_loop(lambda c: any_lane(c[0] > start), body, (stop, bars))
    return carry[1]


def _through_sparse_record(
    steps: Steps, kept: Kept, bars: Cotangents, ys_bar: PyTree[Array]
) -> tuple[Cotangents, Int[Array, ""]]:
    """The way back where states may have to be computed again, stretch by stretch.

    A stretch starts at the last state that was kept. From there its steps are repeated,
    into as many rows as the record has, and then pulled back through. If it is longer
    than that, only its end is dealt with, and it comes again. Where every state was
    kept, all steps are one stretch and nothing is repeated.
    """
    record, num_rows = kept.record, kept.record.room.num_rows
    is_whole = record.stride == 1

    def stretch(carry):
        left, again, bars, repeated = carry
        last = jnp.maximum(left - 1, 0)
        first = jnp.where(is_whole, last, last // record.stride * record.stride)
        start = jnp.where(is_whole, 0, jnp.maximum(first, last - num_rows + 1))

        # Forwards, from the state that was kept to the last step's.
        def repeat(carry):
            step, at, again = carry
            goes_on, slot = step < last, step % num_rows
            again = jax.tree.map(
                lambda rows, x: rows.at[slot].set(jnp.where(goes_on, x, rows[slot])),
                again,
                at,
            )
            new = steps.repeat(record.times(step), at)
            return step + goes_on.astype(jnp.int32), choose(goes_on, new, at), again

        goes_on = lambda carry: any_lane(carry[0] < last)
        at = record.row(first // record.stride)
        _, at, again = lax.while_loop(goes_on, repeat, (first, at, again))
        slot = last % num_rows
        again = jax.tree.map(lambda rows, x: rows.at[slot].set(x), again, at)

        # And back.
        def state_at(step):
            computed = jax.tree.map(lambda rows: rows[step % num_rows], again)
            return choose(is_whole, record.row(step), computed)

        start = jnp.where(left > 0, start, 0)
        bars = _through(steps, kept, state_at, left, start, bars, ys_bar)
        return start, again, bars, repeated + last - first

    again = jax.tree.map(lambda rows: jnp.zeros_like(rows[:-1]), record.rows)
    again = varying_like(again, record)
    carry = (kept.num_steps, again, bars, jnp.zeros_like(kept.num_steps))
    _, _, bars, repeated = lax.while_loop(
        lambda carry: any_lane(carry[0] > 0), stretch, carry
    )
    return bars, repeated
