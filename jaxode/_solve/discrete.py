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
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.lanes import any_lane, choose, varying_like
from .adjoints import Discrete
from .diffrax_calls import forward_calls
from .integrate import Integral
from .loop import can_jump, interpolate, made_jump_of, prepare, run, Setup
from .own_gradient import parameters_of, Problem, with_own_gradient
from .record import Record
from .settings import SolveSettings
from .stats import SolveCounts


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
    record = _empty_record(problem) if keep else None
    if record is not None:
        settings = dataclasses.replace(settings, max_steps=record.capacity)
    setup = prepare(problem.field, problem.args, problem.ts, settings)
    out, record, next_read = run(setup, problem.y0, record)
    if record is None:
        return out, None
    return out, Kept(record, out.stats.num_accepted_steps, next_read)


def _empty_record(problem: Problem) -> Record:
    """A record with room for the steps of a solve, within the adjoint's bound."""
    settings = problem.settings
    assert isinstance(settings.adjoint, Discrete)
    capacity = settings.max_steps or MOST_STEPS
    # With each state its first stage, as long as the state itself.
    row_bytes = 2 * sum(y.nbytes for y in jax.tree.leaves(problem.y0))
    num_rows = settings.adjoint.num_rows(row_bytes, capacity)
    return Record(num_rows, capacity, can_jump(settings.controller))


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


class Cotangents(NamedTuple):
    """What is carried from step to step, backwards.

    Attributes:
        y: dL/dy_k.
        solver: dL/ds_k.
        parameters: dL/dp of the steps so far.
        read: Index of the first of `ts` that has been dealt with.
    """

    y: PyTree[Array]
    solver: PyTree
    parameters: PyTree
    read: Int[Array, ""]


class Cursor(NamedTuple):
    """Where the way back is, in a record that may lack states.

    Attributes:
        left: Steps that have not been pulled back; the next one is the last of them.
        step: The step whose state is at hand.
        lowest: The first step since whose state the ones computed again are at hand.
        at: State and solver state at the start of `step`.
        repeated: Steps computed again.
    """

    left: Int[Array, ""]
    step: Int[Array, ""]
    lowest: Int[Array, ""]
    at: PyTree
    repeated: Int[Array, ""]


def _pull_back(
    problem: Problem, perturbed: Problem, kept: Kept, ys_bar: PyTree[Array]
) -> dict[str, PyTree]:
    """The cotangents of what was perturbed, by the names in `Problem`."""
    parameters, rest = parameters_of(problem, perturbed)
    steps = Steps(problem, parameters, rest)
    record, num_steps = kept.record, kept.num_steps

    # The last state is what every row holds that was not read within a step.
    is_last = jnp.arange(1, len(problem.ts), dtype=jnp.int32) >= kept.next_read
    of_last = lambda bar: jnp.tensordot(is_last.astype(bar.dtype), bar, 1)
    y0, s0 = record.row(jnp.zeros((), jnp.int32))
    bars = Cotangents(
        y=jax.tree.map(of_last, ys_bar),
        solver=jax.tree.map(jnp.zeros_like, eqx.filter(s0, eqx.is_inexact_array)),
        parameters=jax.tree.map(jnp.zeros_like, parameters),
        read=kept.next_read,
    )
    bars = varying_like(bars, problem.y0, parameters, record, ys_bar)

    # Step by step, from the last to the first.
    repeated = jnp.zeros((), jnp.int32)
    if record.can_overflow:
        bars, repeated = _through_sparse_record(steps, record, num_steps, bars, ys_bar)
    else:
        bars = _through_whole_record(steps, record, num_steps, bars, ys_bar)

    # What the solver computed before its first step.
    y_bar, parameters_bar = steps.pull_init(record, y0, bars.solver)
    y_bar = jax.tree.map(jnp.add, bars.y, y_bar)
    parameters_bar = jax.tree.map(jnp.add, bars.parameters, parameters_bar)
    field_bar, args_bar = parameters_bar
    jumps = (
        jnp.sum(record.jumps[:-1] & (jnp.arange(record.capacity) < num_steps))
        if (record.jumps is not None)
        else jnp.zeros((), jnp.int32)
    )
    none = jnp.zeros((), jnp.int32)
    calls = forward_calls(steps.setup.solver, num_steps, none, jumps, none)
    counts = SolveCounts.of(
        nfe=jnp.nan if calls is None else calls,
        num_steps=num_steps,
        num_accepted_steps=num_steps,
        num_repeated_steps=repeated,
        num_solves=1,
    )
    return dict(y0=y_bar, field=field_bar, args=args_bar, probe=counts)


def _through_whole_record(
    steps: "Steps",
    record: Record,
    num_steps: Int[Array, ""],
    bars: Cotangents,
    ys_bar: PyTree[Array],
) -> Cotangents:
    """The way back where the state of every step is kept."""

    def body(carry):
        left, bars = carry
        active = left > 0
        step = jnp.maximum(left - 1, 0)
        times, at = record.times(step), record.row(step)
        _, pull = steps.pull(times, at)
        new = pull(bars, ys_bar, active)
        return step, choose(active, new, bars)

    carry = lax.while_loop(lambda c: any_lane(c[0] > 0), body, (num_steps, bars))
    return carry[1]


def _through_sparse_record(
    steps: "Steps",
    record: Record,
    num_steps: Int[Array, ""],
    bars: Cotangents,
    ys_bar: PyTree[Array],
) -> tuple[Cotangents, Int[Array, ""]]:
    """The way back where states may have to be computed again.

    One loop for both: a turn computes the step at hand once more and, if it is the last
    one left, pulls the cotangents through it. So the program holds a step once.
    """
    num_rows = record.num_rows

    def restarted(cursor: Cursor) -> Cursor:
        """At the last state kept before the step that is to be pulled back next."""
        target = jnp.maximum(cursor.left - 1, 0)
        step = target // record.stride * record.stride
        at = record.row(step // record.stride)
        lowest = jnp.maximum(step, target - num_rows + 1)
        return cursor._replace(step=step, lowest=lowest, at=at)

    def body(carry):
        cursor, again, bars = carry
        active, target = cursor.left > 0, jnp.maximum(cursor.left - 1, 0)
        slot = cursor.step % num_rows
        again = jax.tree.map(
            lambda rows, x: rows.at[slot].set(jnp.where(active, x, rows[slot])),
            again,
            cursor.at,
        )
        reached, pull = steps.pull(record.times(cursor.step), cursor.at)

        # Not there yet: on to the next step.
        is_target = cursor.step == target
        onward = cursor._replace(
            step=cursor.step + 1, at=reached, repeated=cursor.repeated + 1
        )
        # There: pull, then back to a state at hand, or to one that was kept.
        bars = lax.cond(
            is_target & active, lambda b: pull(b, ys_bar, active), lambda b: b, bars
        )
        before = jnp.maximum(target - 1, 0)
        at_hand = jax.tree.map(lambda rows: rows[before % num_rows], again)
        back = cursor._replace(left=target, step=before, at=at_hand)
        back = choose(before >= cursor.lowest, back, restarted(back))
        cursor = choose(active, choose(is_target, back, onward), cursor)
        return cursor, again, bars

    zero = jnp.zeros_like(num_steps)
    first = restarted(Cursor(num_steps, zero, zero, record.row(zero), zero))
    again = jax.tree.map(
        lambda x: jnp.zeros((num_rows, *x.shape), x.dtype), record.row(zero)
    )
    again = varying_like(again, bars, record)
    going = lambda carry: any_lane(carry[0].left > 0)
    cursor, _, bars = lax.while_loop(going, body, (first, again, bars))
    return bars, cursor.repeated


class Steps:
    """The steps of a solve as functions of what is differentiated.

    Attributes:
        problem: The solve.
        parameters: The arrays of the field and its `args` that are differentiated.
        rest: The field and its `args` without them.
        setup: Solver and times.
    """

    def __init__(self, problem: Problem, parameters: PyTree, rest: PyTree):
        self.problem = problem
        self.parameters = parameters
        self.rest = rest
        self.setup = self._setup(parameters)

    def _setup(self, parameters: PyTree) -> Setup:
        field, args = eqx.combine(parameters, self.rest)
        return prepare(field, args, self.problem.ts, self.problem.settings)

    def pull(self, times: tuple, at: PyTree) -> tuple[PyTree, Any]:
        """Computes a step again.

        Args:
            times: Its start, its end, and whether it starts at a jump.
            at: State and solver state where it starts.

        Returns:
            State and solver state where it ends; and the function that pulls cotangents
            back through it and through the read-outs inside.
        """
        t0, t1, made_jump = times
        y, solver_state = at
        inexact, exact = eqx.partition(solver_state, eqx.is_inexact_array)

        def step(y, inexact, parameters):
            setup = self._setup(parameters)
            y1, _, dense_info, after, _ = setup.solver.step(
                setup.term,
                t0,
                t1,
                y,
                setup.args,
                eqx.combine(inexact, exact),
                made_jump_of(made_jump),
            )
            after, exact_after = eqx.partition(after, eqx.is_inexact_array)
            dense_info = dense_info if setup.reads else None
            return (y1, after, dense_info), exact_after

        outputs, vjp, exact_after = jax.vjp(
            step, y, inexact, self.parameters, has_aux=True
        )
        y1, after, dense_info = outputs

        def pull(bars: Cotangents, ys_bar: PyTree, active: Bool[Array, ""]):
            read, y1_bar, dense_bar = bars.read, bars.y, None
            if self.setup.reads:
                read, y1_bar, dense_bar = self._pull_reads(
                    (t0, t1, dense_info, y1), bars, ys_bar, active
                )
            y_bar, solver_bar, parameters_bar = vjp((y1_bar, bars.solver, dense_bar))
            total = jax.tree.map(jnp.add, bars.parameters, parameters_bar)
            return Cotangents(y_bar, solver_bar, total, read)

        return (y1, eqx.combine(after, exact_after)), pull

    def _pull_reads(
        self, within: tuple, bars: Cotangents, ys_bar: PyTree, active: Bool[Array, ""]
    ) -> tuple[Int[Array, ""], PyTree, PyTree]:
        """Adds the cotangents of read-outs within a step to those of its outputs."""
        t0, t1, dense_info, y1 = within
        ts, solver = self.setup.ts, self.setup.solver

        def inside(carry):
            index = carry[0]
            return active & (index > 1) & (ts[jnp.maximum(index - 1, 0)] > t0)

        def body(carry):
            index, y1_bar, dense_bar = carry
            goes_on = inside(carry)
            before = jnp.maximum(index - 1, 1)
            value = lambda dense_info, y1: interpolate(
                solver, t0, t1, dense_info, y1, ts[before]
            )
            _, vjp = jax.vjp(value, dense_info, y1)
            own = vjp(jax.tree.map(lambda rows: rows[before - 1], ys_bar))
            new = jax.tree.map(jnp.add, (dense_bar, y1_bar), own)
            dense_bar, y1_bar = choose(goes_on, new, (dense_bar, y1_bar))
            return jnp.where(goes_on, before, index), y1_bar, dense_bar

        dense_bar = jax.tree.map(jnp.zeros_like, dense_info)
        carry = (bars.read, bars.y, varying_like(dense_bar, dense_info))
        return lax.while_loop(lambda carry: any_lane(inside(carry)), body, carry)

    def pull_init(
        self, record: Record, y0: PyTree, solver_bar: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Pulls the cotangent of the solver's first state back to `y0` and `p`."""
        if not jax.tree.leaves(solver_bar):
            return jax.tree.map(jnp.zeros_like, (y0, self.parameters))

        def init(y0, parameters):
            setup = self._setup(parameters)
            t1 = record.ends[0]
            state = setup.solver.init(setup.term, setup.ts[0], t1, y0, setup.args)
            return eqx.filter(state, eqx.is_inexact_array)

        return jax.vjp(init, y0, self.parameters)[1](solver_bar)
