"""`odeint`: an ODE solve with every gradient, and an account of what it cost."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._steps.carried import Carried
from .._steps.lanes import axes_of
from .._steps.pooled import PartNorm, PooledNorm
from .adjoints import Adjoint, Backsolve, Discrete, with_checkpoints
from .arguments import check_state, check_times
from .backsolve import solve_by_backsolve
from .closures import captured_arrays, VectorField
from .cost import raise_if_unknown, with_cost
from .dense import Dense, knots_of, times_within
from .diagnosis import diagnosis
from .discrete import solve_by_discrete
from .failures import counts_of, raise_if_failed
from .in_mesh import integrate_in_mesh
from .integrate import Integral, integrate
from .jumps import either_side
from .pooling import check_pooled
from .probes import add_to_probe, Counted, in_force, InForce, without_probes
from .settings import SolveSettings
from .stats import SolveCounts, SolveStats
from .time_gradient import reads_at, starts_at


class Solution(eqx.Module):
    """The outcome of `odeint`.

    Attributes:
        ts: The times asked for.
        ys: The state at each, leading axis `len(ts)`; `ys[0]` is `y0`. Where the solve
            failed, times that were not reached hold the last state that was.
        stats: Steps and field calls of the forward solve.
        result: How the solve ended; `diffrax.RESULTS.successful` if all is well.
        cost: The integral of the cost from `ts[0]` to each of the times, leading axis
            `len(ts)`, first row zero; `None` without a cost.
        between: What `evaluate` needs; `None` without `dense=True`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> turn = lambda t, y, args: jnp.stack([y[1], -y[0]])
        >>> sol = jaxode.odeint(turn, jnp.array([1.0, 0.0]), [0.0, 1.0], dense=True)
        >>> isinstance(sol, jaxode.Solution), sol.ys.shape, sol.evaluate(0.5).shape
        (True, (2, 2), (2,))
    """

    ts: Float[Array, " time"]
    ys: PyTree[Array]
    stats: SolveStats
    result: diffrax.RESULTS
    cost: PyTree = None
    between: Dense | None = None

    def evaluate(self, t: Any) -> PyTree[Array]:
        """The state at any time of a solve with `dense=True`.

        Differentiable with respect to `t` and all that the solve was, under every
        adjoint. Costs one step of the solver for each time, and is as accurate. Under
        `jax.vmap`, call it inside.

        Args:
            t: A time, or an array of times in any order.

        Returns:
            The state, with the axes of `t` in front. Where a traced `t` lies outside of
            the solve, NaN.

        Raises:
            ValueError: without `dense=True`, and for a time outside of the solve.
        """
        if self.between is None:
            raise ValueError(
                "This solution holds the state at its times only; type "
                "jaxode.odeint(..., dense=True) to evaluate it in between."
            )
        return self.between.evaluate(times_within(t, self.between))


def odeint(
    field: VectorField,
    y0: PyTree[ArrayLike],
    ts: Any,
    args: PyTree = None,
    *,
    solver: diffrax.AbstractSolver = diffrax.Dopri5(),
    adjoint: Adjoint = "discrete",
    rtol: ArrayLike | None = 1e-3,
    atol: ArrayLike | None = 1e-6,
    dt0: ArrayLike | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
    controller: diffrax.AbstractAdaptiveStepSizeController | None = None,
    unroll: bool = True,
    jumps: Any = None,
    norm: PooledNorm | PartNorm | None = None,
    cost: VectorField | None = None,
    dense: bool = False,
) -> Solution:
    """Solves dy/dt = field(t, y, args) from `ts[0]` and reads the state at all `ts`.

    Differentiable with respect to `y0`, `args`, the arrays inside `field` and every
    entry of `ts`, under every adjoint. The step sizes are taken as constants. The
    derivatives with respect to times are those of the exact solution, evaluated at the
    computed one: with few, long steps they differ from finite differences of the
    computed values by the error of these.

    Args:
        field: Vector field `field(t, y, args)`: a function, or an Equinox module whose
            arrays are to be trained. It returns dy/dt, shaped like `y`.
        y0: State at `ts[0]`: any pytree of floating (or complex) arrays.
        ts: At least two times, increasing or decreasing, in the precision of `y0`.
            Equal neighbours give equal rows and cost no step (`jaxode.pad_times`).
        args: Any pytree, handed to the field.
        solver: Any Diffrax ODE solver, `jaxode.RK4()` or `jaxode.RK38()`;
            `diffrax.Dopri5()` by default.
        adjoint: How gradients are taken: `"discrete"`, `"backsolve"`, `"checkpoint"`,
            `"direct"`, a `jaxode.Discrete` or `jaxode.Backsolve` with settings, or any
            `diffrax.AbstractAdjoint`.
        rtol: Relative tolerance on the RMS of the local error over the whole state,
            dimensionless, > 0. `None` for fixed steps.
        atol: Absolute tolerance, in units of the state, > 0.
        dt0: First step; by default chosen by Hairer's rule. With `rtol=None`: equal
            steps, at most this long, that end on every time of `ts`. Its sign is that
            of `ts[-1] - ts[0]`.
        max_steps: Steps tried at most. `"direct"` pays for them, taken or not.
        throw: Whether a failed solve raises. `False` inside jitted training loops: the
            check needs a host callback, and `sol.result` tells as well.
        controller: Adaptive step size controller, in place of a
            `diffrax.PIDController` with these tolerances.
        unroll: Whether explicit Runge-Kutta solvers run with their stages
            written out (`jaxode.Unrolled`). Results are equal to rounding.
        jumps: Times, in any order, at which the field (an input, say) jumps. Steps end
            just before and start anew just after, so that the field is never asked on
            the wrong side or at the jump itself. Those outside of `ts` do nothing.
        norm: `jaxode.PooledNorm("batch")` inside `jax.shard_map`: the error norm, and
            with it every step, is that of all devices along this axis and not of each
            for itself.
        cost: `cost(t, y, args)`, a function or a module like the field: a number, an
            array, or a pytree of these in the precision of `y0`. `sol.cost` has its
            integral. It is left out of the error norm, so the steps are those of a
            solve without it.
        dense: Whether `sol.evaluate(t)` is to give the state at any time in between.
            The solve is then done twice, both of which `sol.stats.nfe` counts, and
            keeps a state for each of `max_steps`.

    Returns:
        A `Solution`.

    Raises:
        TypeError: for integer states or times, or arguments of the wrong kind.
        ValueError: for arguments that contradict each other; each message says what
            was passed, what is needed and what to type.
        SolveError: if `throw`, where the solve did not reach the last time.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, eqs. 3 to 5 and
        appendices B and C, for the gradients.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> decay = lambda t, y, rate: -rate * y
        >>> sol = jaxode.odeint(decay, jnp.array(1.0), [0.0, 0.5, 1.0], 2.0)
        >>> [f"{y:.2f}" for y in sol.ys]  # 1, exp(-1), exp(-2)
        ['1.00', '0.37', '0.14']
    """
    settings = SolveSettings.among(locals())
    given = in_force()
    with without_probes():
        return _solve(field, y0, ts, args, cost, dense, settings, given)


def _solve(
    field: VectorField,
    y0: PyTree,
    ts: Any,
    args: PyTree,
    cost: VectorField | None,
    dense: bool,
    settings: SolveSettings,
    given: InForce,
) -> Solution:
    # What is solved.
    settings = settings.replace(**given.replacements)
    y0 = check_state(y0)
    ts = check_times(ts, y0, settings.throw)
    fixed_ts = settings.times_of(jax.lax.stop_gradient(ts))
    settings = settings.for_times(ts)
    check_pooled(settings.pooled_axes, ts, settings)
    if cost is not None:
        field, y0 = with_cost(field, cost, ts[0], y0, args)
    field, captured = captured_arrays(field, ts[0], y0, args)

    # The solve. To it the times are constants: what they contribute to the gradient is
    # added at the two ends, for every adjoint alike.
    leaving, arriving = either_side(field, settings.jumps, fixed_ts)
    y_start = starts_at(y0, ts[0], leaving, args)
    knots = knots_of(field, y0, args, fixed_ts, settings) if dense else None
    if knots is not None:
        fixed_ts = knots.merged_ts
    problem = (field, y_start, args, fixed_ts, settings)
    if isinstance(settings.adjoint, Backsolve):
        solve = solve_by_backsolve(*problem, captured, given.backward_probe)
    elif isinstance(settings.adjoint, Discrete):
        solve = solve_by_discrete(*problem, captured, given.backward_probe)
    else:
        solve = _solve_by_diffrax(*problem, given.backward_probe)

    # What it reports.
    ys = solve.ys
    if given.forward_probe is not None:
        report = jax.lax.stop_gradient(counts_of(solve))
        ys = add_to_probe(ys, given.forward_probe, report)
    if settings.throw:
        more = lambda: diagnosis(field, args, ts, solve, settings)
        ys = raise_if_failed(ys, solve, "The solve", settings.max_steps, more)
        ys = raise_if_unknown(ys, fixed_ts) if cost is not None else ys
    stats, between = solve.stats, None
    if knots is not None:
        own = (field, args, settings)
        ys, between = knots.taken_from(y_start, ys, solve.t_reached, own)
        stats = knots.counted_in(stats)
    ys = reads_at(ys, ts[1:], arriving, args)
    ys = jax.tree.map(lambda y, rows: jnp.concatenate([y[None], rows]), y0, ys)
    ys, costs = (ys.y, ys.sums) if isinstance(ys, Carried) else (ys, None)
    return Solution(ts, ys, stats, solve.result, costs, between)


def _solve_by_diffrax(
    field: Any,
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
    probe: SolveCounts | None,
) -> Integral:
    """`integrate`, differentiated by an adjoint of Diffrax's."""
    assert isinstance(settings.adjoint, diffrax.AbstractAdjoint)
    adjoint = with_checkpoints(settings.adjoint, y0, settings.max_steps)
    settings = settings.replace(adjoint=adjoint)
    solve_ = integrate_in_mesh if axes_of((field, y0, args, ts)) else integrate
    if probe is None:
        return solve_(field, y0, args, ts, settings)
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise ValueError(
            "diffrax.BacksolveAdjoint does not tell what its backward solve did; for "
            "backward statistics pass adjoint='backsolve' or jaxode.Backsolve(...)."
        )
    # Inside a root finder a field is differentiated in forward mode, which a field that
    # reports cannot be; and the finder calls it as often as it likes.
    counts = not isinstance(settings.solver, diffrax.AbstractImplicitSolver)
    reporting = Counted(field, probe) if counts else field
    solve = solve_(reporting, y0, args, ts, settings)
    report = SolveCounts.of(
        nfe=0 if counts else jnp.nan,
        num_steps=solve.stats.num_steps,
        num_accepted_steps=solve.stats.num_accepted_steps,
        num_rejected_steps=solve.stats.num_rejected_steps,
        num_solves=1,
    )
    ys = add_to_probe(solve.ys, probe, jax.lax.stop_gradient(report))
    return eqx.tree_at(lambda s: s.ys, solve, ys)
