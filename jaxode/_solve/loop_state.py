"""What a solve's loop carries from step to step, and how that starts."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.controller import InitialStep, StepHistory
from .._steps.lanes import varying_like
from .._steps.runge_kutta import Unrolled
from .record import Record, Room
from .setup import numbers_as_arrays, Setup
from .watch import Watched


class State(eqx.Module):
    """What a step changes.

    Attributes:
        t0: Where the next step starts.
        t1: Where it is tried to end.
        y: The state at `t0`.
        solver: The solver's own state.
        controller: The controller's `StepHistory`.
        made_jump: Whether the field jumps at `t0`; `None` where it cannot.
        result: How it is going.
        num_steps: Steps tried.
        num_accepted: Steps kept.
        next_read: Index of the first of `ts` that has not been read.
        ys: The state at `ts[1:-1]`; `None` if there are no such times.
        record: What is kept for the way back, if anything is.
        watched: What may end the solve within a step (`watch.py`), if anything may.
        calls: Field calls of the steps tried, if they are counted one by one.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    y: PyTree[Array]
    solver: PyTree
    controller: StepHistory
    made_jump: Bool[Array, ""] | None
    result: diffrax.RESULTS
    num_steps: Int[Array, ""]
    num_accepted: Int[Array, ""]
    next_read: Int[Array, ""]
    ys: PyTree[Array] | None
    record: Record | None
    watched: Watched | None = None
    calls: Int[Array, ""] | None = None


def first_state(setup: Setup, y0: PyTree[Array], room: Room | None) -> State:
    """The loop's state at the first time, with an empty record if there is room."""
    term, solver, ts, args = setup.term, setup.solver, setup.ts, setup.args
    controller, solver_state = setup.controller, None
    t0, t_end = ts[0], ts[-1]
    if shares_first_stage(setup):
        # Hairer's rule and the first step both need the field at the start.
        solver_state = solver.init(term, t0, t0, y0, args)
        f0 = lax.stop_gradient(solver_state.value)
        assert isinstance(controller, InitialStep)
        controller = InitialStep(controller.controller, None, f0)
    t1, controller_state = controller.init(
        term, t0, t_end, y0, None, args, solver.func, solver.error_order(term)
    )
    t1 = jnp.minimum(t1, t_end)
    if solver_state is None:
        solver_state = solver.init(term, t0, t1, y0, args)
    solver_state, controller_state = numbers_as_arrays((solver_state, controller_state))
    rows = len(ts) - 2
    zero = jnp.zeros((), jnp.int32)
    results = diffrax.RESULTS
    in_order = jnp.all(jnp.isfinite(ts)) & jnp.all(ts[1:] >= ts[:-1])
    state = State(
        t0=t0,
        t1=t1,
        y=y0,
        solver=solver_state,
        controller=controller_state,
        made_jump=jnp.array(False) if setup.can_jump else None,
        result=results.where(in_order, results.successful, results.internal_error),
        num_steps=zero,
        num_accepted=zero,
        # Times that equal the first one have been read.
        next_read=1 + jnp.sum(ts[1:-1] == t0, dtype=jnp.int32),
        ys=(
            jax.tree.map(lambda y: jnp.broadcast_to(y, (rows, *y.shape)), y0)
            if setup.reads
            else None
        ),
        record=None if room is None else room.record(t0, y0, solver_state),
    )
    return _varying(state, setup, y0)


def _varying(state: State, setup: Setup, y0: PyTree[Array]) -> State:
    """`state` as it will vary over a mesh.

    Where devices step together, what tells of the steps is the same on all of them, and
    its type says so: a loop that could end earlier on one of them would not trace.
    """
    sources = setup.term, y0, setup.args, setup.ts
    everywhere = varying_like(state, *sources)
    if not setup.pooled_axes:
        return everywhere
    decides = varying_like(state, *sources, but=setup.pooled_axes)
    record = everywhere.record
    if record is not None:
        assert decides.record is not None
        record = dataclasses.replace(decides.record, rows=record.rows)
    return dataclasses.replace(
        decides,
        y=everywhere.y,
        solver=everywhere.solver,
        ys=everywhere.ys,
        record=record,
        controller=dataclasses.replace(
            decides.controller, non_finite=everywhere.controller.non_finite
        ),
    )


def shares_first_stage(setup: Setup) -> bool:
    """Whether the solver's first state is the field at the start, which is needed."""
    solver: Any = setup.solver
    return (
        # `isinstance` looks through a wrapper such as `diffrax.HalfSolver`.
        issubclass(type(solver), Unrolled)
        and solver.tableau.fsal
        and isinstance(setup.controller, InitialStep)
        and setup.controller.length is None
    )
