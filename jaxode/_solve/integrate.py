"""The one caller of `diffrax.diffeqsolve`."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._steps.controller import StepHistory
from .._steps.runge_kutta import FirstStage, Unrolled
from .._steps.sides import between
from .control import controller_for
from .diffrax_calls import forward_calls
from .settings import SolveSettings
from .stats import SolveStats


class Integral(eqx.Module):
    """A finished solve, successful or not.

    Attributes:
        ys: The state at `ts[1:]`, stacked. Rows that were not reached hold the last
            state that was.
        stats: Its counts.
        result: How it ended.
        t_reached: The time of the last state reached.
        non_finite: Whether it failed on a NaN or an infinity.
    """

    ys: PyTree[Array]
    stats: SolveStats
    result: diffrax.RESULTS
    t_reached: Float[Array, ""]
    non_finite: Array


def _fill_unreached(
    ts: Float[Array, " time"], ys: PyTree[Array]
) -> tuple[Float[Array, ""], PyTree[Array]]:
    """The time reached, and `ys` with the state at that time in rows beyond it.

    Diffrax leaves infinities in these rows, and writes the last state that it reached
    into the first of them. Rows of the last time hold the last state, as its own does.
    """
    written = jnp.isfinite(ts)
    last = jnp.sum(written) - 1
    is_own = written & (ts != ts[-1])

    def leaf(rows):
        mask = jnp.reshape(is_own, (-1,) + (1,) * (rows.ndim - 1))
        return jnp.where(mask, rows, rows[last])

    return ts[last], jax.tree.map(leaf, ys)


def _first_stage(
    term: diffrax.ODETerm,
    settings: SolveSettings,
    ts: Float[Array, " time"],
    y0: PyTree,
    args: PyTree,
) -> FirstStage | None:
    """The field at the start, where both Hairer's rule and the solver need it.

    Diffrax would have each evaluate it for itself.
    """
    solver: Any = settings.solver
    shared = (
        # `isinstance` looks through a wrapper such as `diffrax.HalfSolver`.
        issubclass(type(solver), Unrolled)
        and solver.tableau.fsal
        and settings.controller is not None
        and settings.dt0 is None
    )
    # Diffrax's own backsolve takes no state of a solver.
    if not shared or isinstance(settings.adjoint, diffrax.BacksolveAdjoint):
        return None
    direction = jnp.where(ts[0] < ts[-1], 1, -1).astype(ts.dtype)
    return FirstStage(direction * ts[0], term.vf(ts[0], y0, args))


def _stats(
    settings: SolveSettings,
    counts: dict[str, Any],
    history: StepHistory,
    is_shared: bool,
) -> SolveStats:
    """What a solve took, success supposed.

    Args:
        settings: Its settings.
        counts: Diffrax's, which are of steps.
        history: The controller's, which gives the rest.
        is_shared: Whether the first step uses the field call of Hairer's rule.
    """
    num_steps, accepted, rejected = (
        jnp.asarray(counts[name], jnp.int32)
        for name in ("num_steps", "num_accepted_steps", "num_rejected_steps")
    )
    nfe = forward_calls(
        settings.solver,
        num_steps,
        history.rejected_at_start,
        history.after_jump,
        history.after_move,
    )
    if nfe is not None and settings.controller is not None and settings.dt0 is None:
        nfe = nfe + (1 if is_shared else 2)
    return SolveStats(
        nfe=nfe,
        num_steps=num_steps,
        num_accepted_steps=accepted,
        num_rejected_steps=rejected,
        last_step=history.last_step,
        success=jnp.array(True),
    )


def integrate(
    field: Any,
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
) -> Integral:
    """Solves `dy/dt = field(t, y, args)` and reads the state at `ts[1:]`.

    Args:
        field: Vector field.
        y0: State at `ts[0]`.
        args: Passed to the field.
        ts: At least two times, increasing or decreasing, not differentiated.
        settings: As `SolveSettings.for_times` returns them, with an adjoint of
            Diffrax's, whose loop decides how the solve is differentiated.

    Returns:
        The solve's outcome; this function never raises on a failed solve.
    """
    term = diffrax.ODETerm(between(field, ts[0], ts[-1], settings.jumps))
    assert isinstance(settings.adjoint, diffrax.AbstractAdjoint)

    # The solve.
    first_stage = _first_stage(term, settings, ts, y0, args)
    f0 = None if first_stage is None else jax.lax.stop_gradient(first_stage.value)
    inner_ts = ts[1:-1] if ts.shape[0] > 2 else None
    solution = diffrax.diffeqsolve(
        term,
        settings.solver,
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=y0,
        args=args,
        # The end is saved with `t1=True`, which is the state itself and no interpolant.
        saveat=diffrax.SaveAt(ts=inner_ts, t1=True, controller_state=True),
        stepsize_controller=controller_for(settings, ts, f0),
        adjoint=settings.adjoint,
        max_steps=settings.max_steps,
        throw=False,
        solver_state=first_stage,
    )

    # How it ended. Diffrax does not look for a NaN among the times.
    results = diffrax.RESULTS
    finite = jnp.all(jnp.isfinite(ts))
    result = results.where(finite, solution.result, results.internal_error)

    # What it took, and where it got to.
    history = jax.lax.stop_gradient(solution.controller_state)
    assert isinstance(history, StepHistory)
    stats = _stats(settings, solution.stats, history, f0 is not None)
    stats = dataclasses.replace(stats, success=result == results.successful)
    assert solution.ts is not None
    t_reached, ys = _fill_unreached(solution.ts, solution.ys)
    return Integral(
        ys=ys,
        stats=stats,
        result=result,
        t_reached=jax.lax.stop_gradient(t_reached),
        non_finite=history.non_finite,
    )
