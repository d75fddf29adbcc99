"""How gradients pass through a solve: the choices, and when to use which.

`checkpoint` (`diffrax.RecursiveCheckpointAdjoint`) differentiates the steps that were
taken, storing some of the states and recomputing the others. The gradient is that of
the numbers computed, exact to rounding; memory is the number of checkpoints times the
state. The choice to begin with.

`direct` (`diffrax.DirectAdjoint`) differentiates the steps too, but stores everything
and so allows forward mode and higher derivatives. Time and memory grow with
`max_steps`, taken or not: keep that bound tight.

`backsolve` (`Backsolve`) solves a second ODE backwards for the gradient. Memory does
not depend on the number of steps. The gradient is that of the exact solution, known up
to the tolerance of two solves, and only as long as the field can be solved backwards
at all: see `BackwardStats.reconstruction_error`.
"""

from typing import Literal, TypeAlias

import diffrax
import equinox as eqx
from jaxtyping import ArrayLike


AdjointName: TypeAlias = Literal["backsolve", "checkpoint", "direct"]


class Backsolve(eqx.Module):
    """Settings of the continuous adjoint; each one left out is as in the forward solve.

    In torchdiffeq's words: `adjoint_method`, `adjoint_rtol`, `adjoint_atol`, and
    `adjoint_options=dict(norm="seminorm")`.

    Attributes:
        solver: Diffrax solver of the backward solve.
        rtol: Relative tolerance of the backward solve.
        atol: Absolute tolerance, in units of the state and of its cotangent.
        controller: Adaptive controller, in place of one made from the tolerances.
        dt0: First step of the backward solve, > 0; where left out, the solve starts
            with the last step of the forward solve. With a forward solve in fixed
            steps, the bound on the backward steps.
        max_steps: Backward steps tried at most, in each read-out interval.
        seminorm: Leaves the parameters' part out of the error norm. It is an integral
            that feeds back into nothing, and controlling it costs steps (Kidger, Chen
            & Lyons 2021, "Hey, that's not an ODE", arXiv:2009.09457).
    """

    solver: diffrax.AbstractSolver | None = None
    rtol: ArrayLike | None = None
    atol: ArrayLike | None = None
    controller: diffrax.AbstractAdaptiveStepSizeController | None = None
    dt0: ArrayLike | None = None
    max_steps: int | None = eqx.field(static=True, default=None)
    seminorm: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.controller is not None and (
            self.rtol is not None or self.atol is not None or self.seminorm
        ):
            raise ValueError(
                "Backsolve got a controller together with rtol, atol or seminorm; "
                "set these on the controller: "
                "Backsolve(controller=diffrax.PIDController(rtol=..., atol=...))."
            )


Adjoint: TypeAlias = AdjointName | Backsolve | diffrax.AbstractAdjoint

ADJOINTS: dict[str, Backsolve | diffrax.AbstractAdjoint] = {
    "backsolve": Backsolve(),
    "checkpoint": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
}


def resolve_adjoint(adjoint: Adjoint) -> Backsolve | diffrax.AbstractAdjoint:
    """The adjoint that a name stands for, or the object itself.

    Raises:
        ValueError: for a name that is none of `ADJOINTS`.
        TypeError: for anything that is neither a name nor an adjoint.
    """
    if isinstance(adjoint, Backsolve | diffrax.AbstractAdjoint):
        return adjoint
    names = ", ".join(repr(name) for name in ADJOINTS)
    if not isinstance(adjoint, str):
        raise TypeError(
            f"adjoint must be one of {names}, a jaxode.Backsolve or a "
            f"diffrax.AbstractAdjoint; got {adjoint!r}."
        )
    if adjoint not in ADJOINTS:
        raise ValueError(f"Unknown adjoint {adjoint!r}; choose one of {names}.")
    return ADJOINTS[adjoint]
