"""The continuous adjoint: gradients from a second ODE, solved backwards.

With the adjoint `a(t) = dL/dy(t)`, written as a column,

    dy/dt = f(t, y, p)    da/dt = -(df/dy)^T a    dg/dt = -(df/dp)^T a

is solved from `t1` to `t0`, starting at `y(t1)`, `dL/dy(t1)` and zero. It ends at
`dL/dy(t0)` and `dL/dp`; each read-out time in between adds its cotangent to `a`.
(Chen et al. 2018, arXiv:1806.07366, eqs. 3 to 5 and appendix C.)

`diffrax.BacksolveAdjoint` solves the same system, and the tests hold the two to be
equal. It keeps the backward solve to itself: no count of its steps, no way to start it
where the forward solve ended, no reconstruction error (diffrax issues 110, 118, 195).
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from .._steps.carried import controlled
from .._steps.lanes import varying_like
from .._steps.pooled import Augmented, PartNorm
from .adjoints import Backsolve
from .failures import counts_of, raise_if_failed
from .integrate import Integral
from .loop import run
from .own_gradient import parameters_of, Problem, with_own_gradient
from .settings import backward_settings, SolveSettings
from .setup import prepare
from .stats import SolveCounts


def _relative_error(
    y: PyTree, y_true: PyTree, norm: PartNorm | None
) -> Float[Array, ""]:
    length = optx.two_norm if norm is None else norm
    difference = length(jax.tree.map(jnp.subtract, y, y_true))
    return difference / jnp.maximum(length(y_true), 1e-30)


class _Augmented(eqx.Module):
    """`d(y, a, g)/dt`, given the leaves that are differentiated as `parameters`.

    A module and no closure, so that a second gradient finds the first one compiled.

    Attributes:
        rest: The field and its `args` without these leaves.
    """

    rest: PyTree

    def __call__(self, t: Any, state: Augmented, parameters: PyTree) -> Augmented:
        y, a, g = state

        def f(y, parameters):
            field, args = eqx.combine(parameters, self.rest)
            return field(t, y, args)

        # eq. 3: dy/dt = f. One vector-Jacobian product gives both other parts,
        # eq. 4: da/dt = -(df/dy)^T a, and the integrand of eq. 5: -(df/dp)^T a.
        y_dot, vjp = jax.vjp(f, y, parameters)
        a_dot, g_dot = jax.tree.map(jnp.negative, vjp(a))
        # Diffrax holds no state in less precision than the time's, parameters may be.
        g_dot = jax.tree.map(lambda d, g: d.astype(g.dtype), g_dot, g)
        return Augmented(y_dot, a_dot, g_dot)


CAPTURED_MESSAGE = (
    "The vector field closes over an array that is being differentiated, and "
    "adjoint='backsolve' cannot see it: its gradient would be missing. Pass the array "
    "through `args`, or make the field an equinox.Module that holds it; "
    "adjoint='checkpoint' takes closures as they are."
)


def _forward(problem: Problem, keep: bool) -> tuple[Integral, PyTree]:
    """The solve; the way back needs what it returned, and nothing from within."""
    del keep
    setup = prepare(problem.field, problem.args, problem.ts, problem.settings)
    out, _, _ = run(setup, problem.y0)
    return out, (out.ys, out.stats)


def _pull_back(
    problem: Problem, perturbed: Problem, kept: PyTree, ys_bar: PyTree[Array]
) -> dict[str, PyTree]:
    """The cotangents of what was perturbed, by the names in `Problem`.

    They are NaN where one of the two solves failed and the loss depends on it.

    Where no first step is given, the backward solve of each interval starts with the
    step that the solve before it ended with, the forward solve in the first place.
    """
    if any(jax.tree.leaves(perturbed.captured)):
        raise ValueError(CAPTURED_MESSAGE)
    ys, forward_stats = kept
    ts, settings = problem.ts, problem.settings
    assert isinstance(settings.adjoint, Backsolve)
    parameters, rest = parameters_of(problem, perturbed)
    summed = jax.tree.map(
        lambda p, flag: None if p is None else flag,
        parameters,
        problem.summed,
        is_leaf=lambda p: p is None,
    )
    flags = tuple(jax.tree.leaves(summed))
    backward = backward_settings(settings.adjoint, settings, flags)

    # The start: a(t1) = dL/dy(t1) is added by the first interval, g(t1) = 0 (eq. 5).
    a = jax.tree.map(jnp.zeros_like, problem.y0)
    with jax.numpy_dtype_promotion("standard"):
        g = jax.tree.map(
            lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, ts.dtype)),
            parameters,
        )
    a, g = varying_like((a, g), problem.y0, parameters, ys_bar)
    counts = varying_like(SolveCounts.of(num_solves=1), problem.probe)
    carry = (a, g, forward_stats.last_step, counts)

    # Interval by interval from t1 to t0; one alone needs no loop to be compiled.
    one_interval = lambda carry, interval: (
        _backward_interval(carry, interval, _Augmented(rest), parameters, backward),
        None,
    )
    intervals = _intervals(ts, problem.y0, ys, ys_bar)
    if ts.shape[0] == 2:
        only = jax.tree.map(lambda rows: rows[0], intervals)
        carry, _ = one_interval(carry, only)
    else:
        carry, _ = jax.lax.scan(one_interval, carry, intervals, reverse=True)
    a, g, _, counts = carry

    # What goes out: dL/dy(t0) = a(t0) and dL/dp = g(t0). A gradient from half a solve
    # looks like any other; a NaN does not. Whoever has masked a solve that failed out
    # of the loss gets the zero that is right.
    failed = (counts.num_failures > 0) | ~forward_stats.success
    masked = ~jnp.any(jnp.stack([jnp.any(bar != 0) for bar in jax.tree.leaves(ys_bar)]))
    a, g = jax.tree.map(
        lambda x: jnp.where(masked, 0, jnp.where(failed, jnp.nan, x)), (a, g)
    )
    field_bar, args_bar = jax.tree.map(lambda g, p: g.astype(p.dtype), g, parameters)
    return dict(y0=a, field=field_bar, args=args_bar, probe=counts)


def _intervals(ts: Array, y0: PyTree, ys: PyTree, ys_bar: PyTree) -> PyTree:
    """Stacked over intervals: end, start, state at the end and start, cotangent."""
    starts = jax.tree.map(lambda y, rows: jnp.concatenate([y[None], rows[:-1]]), y0, ys)
    return ts[1:], ts[:-1], ys, starts, ys_bar


def _backward_interval(
    carry: PyTree,
    interval: PyTree,
    augmented: _Augmented,
    parameters: PyTree,
    settings: SolveSettings,
) -> PyTree:
    """Carries `a`, `g`, the step length and the counts from an interval's end back."""
    a, g, step, counts = carry
    t_end, t_start, y_end, y_start, y_bar = interval

    # A read-out time adds its cotangent: the jump of `a` there (appendix C).
    a = jax.tree.map(jnp.add, a, y_bar)

    # Eqs. 3 to 5 as one ODE, backwards in time, started where the last solve ended.
    if settings.dt0 is None:
        settings = settings.replace(dt0=step)
    ends = jnp.stack([t_end, t_start])
    setup = prepare(augmented, parameters, ends, settings)
    solve, _, _ = run(setup, Augmented(y_end, a, g))
    rows = solve.ys
    if settings.throw:
        which = "The backward solve (adjoint)"
        rows = raise_if_failed(rows, solve, which, settings.max_steps)
    y, a, g = jax.tree.map(lambda row: row[0], rows)

    # The counts, and how far from the known state the way back has led.
    norm = settings.norm if isinstance(settings.norm, PartNorm) else None
    worst = jnp.maximum(
        counts.reconstruction_error,
        _relative_error(controlled(y), controlled(y_start), norm).astype(jnp.float32),
    )
    own = dataclasses.replace(counts_of(solve), num_solves=jnp.zeros((), jnp.float32))
    counts = jax.tree.map(jnp.add, counts, own)
    counts = dataclasses.replace(counts, reconstruction_error=worst)
    # An interval between equal times takes no step.
    last_step = solve.stats.last_step
    return a, g, jnp.where(last_step > 0, last_step, step), counts


def solve_by_backsolve(
    field: Any,
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
    captured: PyTree[Array],
    probe: SolveCounts | None,
) -> Integral:
    """`integrate` with the continuous adjoint.

    Args:
        field: Vector field.
        y0: State at `ts[0]`.
        args: Passed to the field.
        ts: Times, not differentiated.
        settings: As `SolveSettings.for_times` returns them; the adjoint a `Backsolve`.
        captured: Arrays that the field closes over.
        probe: Receives the backward counts as its cotangent.
    """
    assert isinstance(settings.adjoint, Backsolve)
    backward_settings(settings.adjoint, settings)  # for its errors, before the solve
    probe = SolveCounts.zeros() if probe is None else probe
    problem = Problem(y0, field, args, captured, probe, ts, settings)
    return with_own_gradient(problem, _forward, _pull_back)
