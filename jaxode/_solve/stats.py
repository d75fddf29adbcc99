"""What a solve reports: counts of steps and field calls, forwards and backwards."""

from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.runge_kutta import RK4, RK38, Unrolled


class SolveStats(eqx.Module):
    """Counts of one forward solve; a leading axis where the solve was batched.

    Attributes:
        nfe: Calls of the vector field, or `None` where the solver hides them
            (an implicit solver's root finder calls the field as often as it likes).
            Calls made to compute a gradient are not among them.
        num_steps: Steps tried, which is accepted plus rejected ones.
        num_accepted_steps: Steps kept.
        num_rejected_steps: Steps thrown away because the error was too large.
        last_step: Length of the last accepted step, in units of time, >= 0.
        success: Whether the solve reached the last time.
    """

    nfe: Int[Array, "*batch"] | None
    num_steps: Int[Array, "*batch"]
    num_accepted_steps: Int[Array, "*batch"]
    num_rejected_steps: Int[Array, "*batch"]
    last_step: Float[Array, "*batch"]
    success: Bool[Array, "*batch"]


class BackwardStats(eqx.Module):
    """Counts of the backward pass, summed over all solves that shared a probe.

    They are floating-point numbers because they leave a gradient computation the only
    way anything can: as the cotangent of an input, the probe. Exact up to 2**24.

    Attributes:
        nfe: Vector-Jacobian products of the field. Each evaluates the field as well.
            NaN where a solver hides them, as implicit ones do.
        num_steps: Steps tried by the backward solve under `backsolve`; forward steps
            that were differentiated under every other adjoint.
        num_rejected_steps: Those of them that were rejected.
        num_solves: Solves that were differentiated.
        num_failures: Backward solves that did not reach the first time.
        reconstruction_error: Under `backsolve`, `|y(t0) - y0| / |y0|` with `y(t0)`
            from solving backwards (the largest over the read-out intervals). Where
            this is not small, neither is the error of the gradient. 0 otherwise.
    """

    nfe: Float[Array, ""]
    num_steps: Float[Array, ""]
    num_rejected_steps: Float[Array, ""]
    num_solves: Float[Array, ""]
    num_failures: Float[Array, ""]
    reconstruction_error: Float[Array, ""]

    @classmethod
    def probe(cls) -> "BackwardStats":
        """All zeros: hand it to `odeint(probe=...)` and differentiate with respect
        to it; the gradient is the `BackwardStats` of that gradient computation."""
        return cls(*[jnp.zeros((), jnp.float32) for _ in range(6)])


class ForwardCounts(eqx.Module):
    """Counts of forward solves, summed over all that shared a probe.

    `SolveStats` in the form that leaves a function which does not return it: by a
    cotangent, like `BackwardStats`, and so floating too. Exact up to 2**24.

    Attributes:
        nfe: Calls of the vector field; NaN where a solver hides them.
        num_steps: Steps tried.
        num_accepted_steps: Steps kept.
        num_rejected_steps: Steps thrown away.
        num_solves: Solves.
        num_max_steps: Solves that took all the steps they were allowed.
        num_non_finite: Solves that met a NaN or an infinity.
        num_underflow: Solves whose step size fell below the resolution of the time.
        num_other_failures: Solves whose solver failed by itself.
    """

    nfe: Float[Array, ""]
    num_steps: Float[Array, ""]
    num_accepted_steps: Float[Array, ""]
    num_rejected_steps: Float[Array, ""]
    num_solves: Float[Array, ""]
    num_max_steps: Float[Array, ""]
    num_non_finite: Float[Array, ""]
    num_underflow: Float[Array, ""]
    num_other_failures: Float[Array, ""]

    @classmethod
    def probe(cls) -> "ForwardCounts":
        """All zeros, to be differentiated with respect to."""
        return cls(*[jnp.zeros((), jnp.float32) for _ in range(9)])


def _float32(x: Any) -> Float[Array, ""]:
    return jnp.asarray(x).astype(jnp.float32)


_Counts = TypeVar("_Counts", BackwardStats, ForwardCounts)


def _counts(zeros: _Counts, counts: dict[str, Any]) -> _Counts:
    return eqx.tree_at(
        lambda s: [getattr(s, name) for name in counts],
        zeros,
        [_float32(value) for value in counts.values()],
    )


def backward_stats(**counts: Any) -> BackwardStats:
    """A `BackwardStats` of these counts, with zeros for the rest."""
    return _counts(BackwardStats.probe(), counts)


def forward_counts(stats: SolveStats, **counts: Any) -> ForwardCounts:
    """One solve's `ForwardCounts`: its statistics, and the counts that are given."""
    names = ("num_steps", "num_accepted_steps", "num_rejected_steps")
    counts |= {name: getattr(stats, name) for name in names}
    counts["nfe"] = jnp.nan if stats.nfe is None else stats.nfe
    return _counts(ForwardCounts.probe(), counts | {"num_solves": 1})


@jax.custom_vjp
def add_to_probe(y: PyTree[Array], probe: _Counts, report: _Counts) -> PyTree[Array]:
    """`y`; each time it is differentiated, `report` is added to the probe's cotangent.

    Reverse mode returns nothing but cotangents, hence the probe.
    """
    del probe, report
    return y


def _add_fwd(y, probe, report):
    del probe
    return y, report


def _add_bwd(report, y_bar):
    return y_bar, report, jax.tree.map(jnp.zeros_like, report)


add_to_probe.defvjp(_add_fwd, _add_bwd)


class Counted(eqx.Module):
    """A vector field that reports each of its vector-Jacobian products to a probe."""

    field: Any
    probe: BackwardStats

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return add_to_probe(self.field(t, y, args), self.probe, backward_stats(nfe=1))


def forward_calls(
    solver: diffrax.AbstractSolver,
    num_steps: Int[Array, ""],
    rejected_at_start: Int[Array, ""],
    after_jump: Int[Array, ""],
) -> Int[Array, ""] | None:
    """Field calls of a solve, `None` where they cannot be known from its steps.

    Args:
        solver: The solver.
        num_steps: Steps tried.
        rejected_at_start: Steps rejected before the first was accepted.
        after_jump: Steps tried from a jump, where a first stage that was kept from the
            step before is not valid.
    """
    if isinstance(solver, diffrax.HalfSolver):
        # A step is tried once in full and once in halves, the second of them from a
        # place where the first stage is known.
        inner = solver.solver
        tableau: Any = getattr(inner, "tableau", None)
        explicit = Unrolled | diffrax.AbstractERK
        if isinstance(inner, explicit) and tableau.fsal:
            fresh = 1 + 2 * after_jump
            if not isinstance(inner, Unrolled):
                # The half and the full step each start anew, as below.
                fresh = fresh + 1 + 2 * rejected_at_start
            return fresh + 3 * (tableau.num_stages - 1) * num_steps
        if isinstance(inner, explicit | diffrax.Euler | RK4 | RK38):
            none = jnp.zeros_like(num_steps)
            return forward_calls(inner, 3 * num_steps, none, none)
        return None
    if isinstance(solver, RK4 | RK38):
        return 4 * num_steps
    if isinstance(solver, Unrolled | diffrax.AbstractERK):
        tableau: Any = solver.tableau
        stages = tableau.num_stages
        if not tableau.fsal:
            return stages * num_steps
        fresh = 1 + after_jump
        if not isinstance(solver, Unrolled):
            # Diffrax evaluates the first stage anew until a step has been accepted.
            fresh = fresh + rejected_at_start
        return fresh + (stages - 1) * num_steps
    if isinstance(solver, diffrax.ReversibleHeun):
        return 1 + after_jump + num_steps
    if isinstance(solver, diffrax.Euler | diffrax.LeapfrogMidpoint):
        return num_steps
    return None
