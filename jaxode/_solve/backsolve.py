"""The continuous adjoint: gradients from a second ODE, solved backwards.

With the adjoint `a(t) = dL/dy(t)`, written as a column,

    dy/dt = f(t, y, p)    da/dt = -(df/dy)^T a    dg/dt = -(df/dp)^T a

is solved from `t1` to `t0`, starting at `y(t1)`, `dL/dy(t1)` and zero. It ends at
`dL/dy(t0)` and `dL/dp`; each read-out time in between adds its cotangent to `a`.
(Chen et al. 2018, arXiv:1806.07366, eqs. 3 to 5 and appendix C.)

`diffrax.BacksolveAdjoint` solves the same system. It is written out here because that
class keeps the backward solve to itself: no count of its steps, no way to start it
where the forward solve ended, no reconstruction error (diffrax issues 110, 118, 195).
Should Diffrax return these, this module can go; the tests hold the two to be equal.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from .adjoints import Backsolve, backward_method
from .failures import raise_if_failed
from .integrate import Integral, integrate, Method
from .stats import backward_stats, BackwardStats, SolveStats


# In a forward solve that is not differentiated by Diffrax, this adjoint means a plain
# `lax.while_loop`, and it is used for nothing else.
_PLAIN_LOOP = diffrax.ForwardMode()


def _relative_error(y: PyTree, y_true: PyTree) -> Float[Array, ""]:
    difference = optx.two_norm(jax.tree.map(jnp.subtract, y, y_true))
    return difference / jnp.maximum(optx.two_norm(y_true), 1e-30)


class _Problem(eqx.Module):
    """What a solve is differentiated with respect to.

    `captured` holds arrays that the field closes over. They are here to be told apart:
    whoever differentiates them gets an error instead of a gradient of zero.
    """

    y0: PyTree[Array]
    field: Any
    args: PyTree
    captured: PyTree[Array]
    probe: BackwardStats


class _Augmented(eqx.Module):
    """`d(y, a, g)/dt`, given the leaves that are differentiated as `parameters`.

    A module and no closure, so that a second gradient finds the first one compiled.

    Attributes:
        rest: The field and its `args` without these leaves.
    """

    rest: PyTree

    def __call__(self, t: Any, state: PyTree, parameters: PyTree) -> PyTree:
        y, a, g = state

        def primal(y, parameters):
            field, args = eqx.combine(parameters, self.rest)
            return field(t, y, args)

        y_dot, vjp = jax.vjp(primal, y, parameters)
        a_dot, g_dot = jax.tree.map(jnp.negative, vjp(a))
        # Diffrax holds no state in less precision than the time's, parameters may be.
        g_dot = jax.tree.map(lambda d, g: d.astype(g.dtype), g_dot, g)
        return y_dot, a_dot, g_dot


CAPTURED_MESSAGE = (
    "The vector field closes over an array that is being differentiated, and "
    "adjoint='backsolve' cannot see it: its gradient would be missing. Pass the array "
    "through `args`, or make the field an equinox.Module that holds it; "
    "adjoint='checkpoint' takes closures as they are."
)


@eqx.filter_custom_vjp
def backsolve(
    problem: _Problem,
    ts: Float[Array, " time"],
    forward: Method,
    backward: Method,
    throw: bool,
) -> Integral:
    """`integrate`, differentiated by the continuous adjoint.

    The gradient is NaN where one of the two solves failed.

    Where `backward.dt0` is `None`, the backward solve of each interval starts with the
    step that the solve before it ended with, the forward solve in the first place.
    """
    del backward, throw
    return integrate(problem.field, problem.y0, problem.args, ts, forward, _PLAIN_LOOP)


@backsolve.def_fwd
def _backsolve_fwd(perturbed, problem, ts, forward, backward, throw):
    if any(jax.tree.leaves(perturbed.captured)):
        raise ValueError(CAPTURED_MESSAGE)
    out = backsolve(problem, ts, forward, backward, throw)
    return out, (out.ys, out.stats)


def _intervals(ts: Array, y0: PyTree, ys: PyTree, ys_bar: PyTree) -> PyTree:
    """Stacked over intervals: end, start, state at the end and start, cotangent."""
    starts = jax.tree.map(lambda y, rows: jnp.concatenate([y[None], rows[:-1]]), y0, ys)
    return ts[1:], ts[:-1], ys, starts, ys_bar


def _interval_stats(stats: SolveStats) -> BackwardStats:
    return backward_stats(
        nfe=jnp.nan if stats.nfe is None else stats.nfe,
        num_steps=stats.num_steps,
        num_rejected_steps=stats.num_rejected_steps,
        num_failures=~stats.success,
    )


@backsolve.def_bwd
def _backsolve_bwd(
    residuals,
    out_bar,
    perturbed,
    problem,
    ts,
    forward,
    backward,
    throw,
):
    del forward
    ys, forward_stats = residuals
    ys_bar = jax.tree.map(
        lambda y, y_bar: jnp.zeros_like(y) if y_bar is None else y_bar, ys, out_bar.ys
    )
    parameters, rest = eqx.partition(
        (problem.field, problem.args), (perturbed.field, perturbed.args)
    )

    def one_interval(carry, interval):
        a, g, step, stats = carry
        t_end, t_start, y_end, y_start, y_bar = interval
        a = jax.tree.map(jnp.add, a, y_bar)
        dt0 = step if backward.dt0 is None else backward.dt0
        method = Method(backward.solver, backward.controller, dt0, backward.max_steps)
        solve = integrate(
            _Augmented(rest),
            (y_end, a, g),
            parameters,
            jnp.stack([t_end, t_start]),
            method,
            _PLAIN_LOOP,
        )
        rows = solve.ys
        if throw:
            rows = raise_if_failed(
                rows, solve, "The backward solve (adjoint)", backward.max_steps
            )
        y, a, g = jax.tree.map(lambda row: row[0], rows)
        worst = jnp.maximum(
            stats.reconstruction_error, _relative_error(y, y_start).astype(jnp.float32)
        )
        stats = jax.tree.map(jnp.add, stats, _interval_stats(solve.stats))
        stats = eqx.tree_at(lambda s: s.reconstruction_error, stats, worst)
        return (a, g, solve.stats.last_step, stats), None

    a = jax.tree.map(jnp.zeros_like, problem.y0)
    with jax.numpy_dtype_promotion("standard"):
        g = jax.tree.map(
            lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, ts.dtype)),
            parameters,
        )
    carry = (a, g, forward_stats.last_step, backward_stats(num_solves=1))
    stacked = _intervals(ts, problem.y0, ys, ys_bar)
    if ts.shape[0] == 2:
        only = jax.tree.map(lambda rows: rows[0], stacked)
        carry, _ = one_interval(carry, only)
    else:
        carry, _ = jax.lax.scan(one_interval, carry, stacked, reverse=True)
    a, g, _, stats = carry
    # A gradient from half a solve looks like any other; a NaN does not.
    failed = (stats.num_failures > 0) | ~forward_stats.success
    a, g = jax.tree.map(lambda x: jnp.where(failed, jnp.nan, x), (a, g))
    field_bar, args_bar = jax.tree.map(lambda g, p: g.astype(p.dtype), g, parameters)
    return _Problem(
        y0=a,
        field=field_bar,
        args=args_bar,
        captured=jax.tree.map(lambda _: None, problem.captured),
        probe=stats,
    )


def solve_by_backsolve(
    field: Any,
    captured: PyTree[Array],
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    forward: Method,
    settings: Backsolve,
    *,
    unroll: bool,
    probe: BackwardStats | None,
    throw: bool,
) -> Integral:
    """`integrate` with the continuous adjoint.

    Args:
        field: Vector field.
        captured: Arrays that the field closes over.
        y0: State at `ts[0]`.
        args: Passed to the field.
        ts: Times, not differentiated.
        forward: Method of the forward solve.
        settings: What the backward solve does differently.
        unroll: Whether a solver named in `settings` is written out.
        probe: Receives the backward counts as its cotangent.
        throw: Whether a failed backward solve raises; its gradient is NaN otherwise.
    """
    probe = BackwardStats.probe() if probe is None else probe
    problem = _Problem(y0, field, args, captured, probe)
    backward = backward_method(settings, forward, unroll)
    return backsolve(problem, ts, forward, backward, throw)
