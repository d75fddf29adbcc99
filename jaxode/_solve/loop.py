"""The loop over a solver's steps: plain `lax.while_loop`, Diffrax's public interfaces.

It does what `diffrax.diffeqsolve` does (the same steps, to rounding), and four things
beside: it traces in `jax.shard_map`, compiles in a fraction of the time, takes any
number of steps, and can keep what the way back needs (`record.py`).
"""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from .._steps.controller import InitialStep
from .._steps.lanes import any_lane, choose, typed_as, varying_like
from .._steps.pooled import total_over
from .bounded import bounded_while
from .diffrax_calls import forward_calls
from .integrate import Integral
from .loop_state import first_state, shares_first_stage, State
from .read_out import read_within, Step
from .record import Record, Room
from .setup import Setup
from .stats import SolveStats
from .step import take_step, with_counter
from .watch import Watched


def run(
    setup: Setup, y0: PyTree[Array], room: Room | None = None
) -> tuple[Integral, Record | None, Int[Array, ""]]:
    """Solves, and keeps what the way back needs if there is `room` for it.

    Args:
        setup: From `prepare`.
        y0: State at the first time.
        room: For a record of `setup.max_steps` steps; or `None` for no record.

    Returns:
        The solve's outcome, successful or not; the record; and the index of the first
        of the times that was not read within a step.
    """
    setup, state = with_counter(setup, first_state(setup, y0, room))
    if room is None or not room.can_overflow:
        state = _steps(setup, state)
    else:
        # The inner loop stops where the record is full, which is then thinned.
        def stretch(state: State) -> State:
            state = _steps(setup, state)
            assert state.record is not None
            goes_on = _going(setup, state)
            kept = state.record.thinned(state.num_accepted, goes_on)
            return eqx.tree_at(lambda s: s.record, state, kept)

        state = _while(lambda state: any_lane(_going(setup, state)), stretch, state)
    return _outcome(setup, state), state.record, state.next_read


def run_watched(
    setup: Setup, y0: PyTree[Array], watched: Watched
) -> tuple[Integral, State]:
    """Solves until `watched` stops it, and reads nothing on the way.

    The step in which that happens is taken back: the state is where it starts, and
    `t1` where it would have ended.

    Args:
        setup: From `prepare`.
        y0: State at the first time.
        watched: As it is at the first time.
    """
    setup = setup._replace(reads=False)
    state = dataclasses.replace(first_state(setup, y0, None), watched=watched)
    state = varying_like(state, setup.term, y0, setup.args, setup.ts)
    setup, state = with_counter(setup, state)
    state = _steps(setup, state)
    return _outcome(setup, state), state


def _going(setup: Setup, state: State) -> Bool[Array, ""]:
    """Whether the solve has not ended."""
    going = (state.t0 < setup.ts[-1]) & (state.result == diffrax.RESULTS.successful)
    if setup.max_steps is not None:
        going &= state.num_steps < setup.max_steps
    if state.watched is not None:
        going &= ~state.watched.stops
    return going


def _steps(setup: Setup, state: State) -> State:
    """Steps until the solve ends, or the record has no room for another."""

    def stepping(state: State) -> Bool[Array, ""]:
        going = _going(setup, state)
        if state.record is not None:
            going &= state.record.has_room(state.num_accepted)
        return going

    def body(state: State) -> State:
        return _step(setup, state, stepping(state))

    most = setup.max_steps if setup.differentiable else None
    return _while(lambda state: any_lane(stepping(state)), body, state, most)


def _step(setup: Setup, state: State, active: Bool[Array, ""]) -> State:
    """Tries a step. Everything stays as it is where `active` does not hold."""
    term, solver, args = setup.term, setup.solver, setup.args
    t0, t1, t_end = state.t0, state.t1, setup.ts[-1]

    # The step, and what the controller makes of it, whose decisions are constants.
    taken, calls = take_step(setup, state)
    y1, y_error, dense_info, solver_state, solver_result = taken
    # A candidate beyond the field's domain is a step to be rejected (diffrax 143).
    y_error = jax.tree.map(lambda e: jnp.where(jnp.isnan(e), jnp.inf, e), y_error)
    order: Any = solver.error_order(term)
    seen = lax.stop_gradient((state.y, y1, y_error))
    decision: Any = setup.controller.adapt_step_size(
        t0, t1, seen[0], seen[1], args, seen[2], order, state.controller
    )
    keep, next_t0, next_t1, made_jump, controller, controller_result = decision
    keep = jnp.asarray(keep) & active
    next_t0 = jnp.minimum(next_t0, t_end)
    next_t1 = _clip_to_end(next_t0, next_t1, t_end, keep)
    step, is_tried = Step(t0, t1, y1, dense_info), active

    # A step in which something ends the solve is taken back.
    watched = state.watched
    if watched is not None:
        watched = watched.after(setup, step, keep)
        keep, active = keep & ~watched.stops, active & ~watched.stops

    # Read-outs within it, and what the way back needs of it.
    next_read, ys = state.next_read, state.ys
    if setup.reads:
        next_read, ys = read_within(setup, step, keep, next_read, ys)
    record = state.record
    if record is not None:
        record = record.with_step(
            state.num_accepted, t0, t1, state.y, state.solver, state.made_jump
        )

    # The counts.
    results = diffrax.RESULTS
    result = results.where(keep, solver_result, results.successful)
    failed = result != results.successful
    result = results.where(failed, result, controller_result)
    count = lambda condition: condition.astype(jnp.int32)
    return State(
        t0=jnp.where(active, next_t0, t0),
        t1=jnp.where(active, next_t1, t1),
        y=choose(keep, y1, state.y),
        solver=choose(keep, solver_state, state.solver),
        controller=choose(active, controller, state.controller),
        made_jump=(
            None
            if state.made_jump is None
            else jnp.where(keep, made_jump, state.made_jump)
        ),
        result=results.where(active, result, state.result),
        num_steps=state.num_steps + count(is_tried),
        num_accepted=state.num_accepted + count(keep),
        next_read=next_read,
        ys=ys,
        record=record,
        watched=watched,
        calls=calls if calls is None else state.calls + calls * count(is_tried),
    )


def _outcome(setup: Setup, state: State) -> Integral:
    results = diffrax.RESULTS
    short = (state.result == results.successful) & (state.t0 < setup.ts[-1])
    result = results.where(short, results.max_steps_reached, state.result)
    # Times that were not read are the last one, or were not reached.
    if setup.reads:
        unread = jnp.arange(1, len(setup.ts), dtype=jnp.int32) >= state.next_read

        def rows(y, read):
            read = jnp.concatenate([read, y[None]])
            return jnp.where(jnp.reshape(unread, (-1,) + (1,) * y.ndim), y, read)

        ys = jax.tree.map(rows, state.y, state.ys)
    else:
        ys = jax.tree.map(lambda y: y[None], state.y)
    history = state.controller
    nfe = forward_calls(
        setup.solver,
        state.num_steps,
        history.rejected_at_start,
        history.after_jump,
        history.after_move,
    )
    nfe = state.calls if nfe is None else nfe
    controller = setup.controller
    by_rule = isinstance(controller, InitialStep) and controller.length is None
    if nfe is not None and by_rule:
        nfe = nfe + (1 if shares_first_stage(setup) else 2)
    stats = SolveStats(
        nfe=nfe,
        num_steps=state.num_steps,
        num_accepted_steps=state.num_accepted,
        num_rejected_steps=state.num_steps - state.num_accepted,
        last_step=history.last_step,
        success=result == results.successful,
    )
    non_finite = history.non_finite
    if setup.pooled_axes:
        counted = non_finite.astype(jnp.int32)
        non_finite = total_over(counted, setup.pooled_axes) > 0
    direction = setup.direction
    t_reached = state.t0 if direction is None else state.t0 * direction
    return Integral(
        ys=ys,
        stats=stats,
        result=result,
        t_reached=lax.stop_gradient(t_reached),
        non_finite=non_finite,
    )


def _clip_to_end(t0: Any, t1: Any, t_end: Array, keep: Array) -> Array:
    """No step of almost nothing at the end: the step, or two halves, that go there.

    As Diffrax does, at a hundred times the spacing of floating numbers.
    """
    floor = t_end - 100 * (t_end - jnp.nextafter(t_end, -jnp.inf))
    clipped = jnp.where(keep, t_end, t0 + 0.5 * (t_end - t0))
    return jnp.where(t1 > floor, clipped, t1)


def _while(going: Any, body: Any, state: State, most: int | None = None) -> State:
    """`lax.while_loop` over the arrays of a state; the rest of it stays as it is.

    With a bound on its turns, one that JAX can differentiate.
    """
    arrays, static = eqx.partition(state, eqx.is_array)
    whole = lambda arrays: eqx.combine(arrays, static)

    def turn(arrays):
        return typed_as(eqx.filter(body(whole(arrays)), eqx.is_array), arrays)

    goes_on = lambda arrays: going(whole(arrays))
    if most is None:
        return whole(lax.while_loop(goes_on, turn, arrays))
    return whole(bounded_while(goes_on, turn, arrays, most))
