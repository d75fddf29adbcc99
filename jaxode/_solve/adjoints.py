"""How gradients pass through a solve: the choices, and when to use which.

`discrete` (`Discrete`) differentiates the steps that were taken, in a loop of our own.
It keeps as many states as fit into a bound and repeats steps only beyond that. The
gradient is that of the numbers computed, exact to rounding. The choice to begin with.

`checkpoint` (`diffrax.RecursiveCheckpointAdjoint`) differentiates the steps that were
taken, storing some of the states and recomputing the others. The gradient is that of
the numbers computed too; memory is the number of checkpoints times the state. That
number is Diffrax's, about the root of twice `max_steps`, for small states, and 16 for
large ones: see `with_checkpoints`.

`direct` (`diffrax.DirectAdjoint`) differentiates the steps too, by nothing but JAX's
own loops, and so allows forward mode and higher derivatives. The loops are nested in
sixteens, of which the innermost keep everything: memory for 16 steps more with every
power of 16 in `max_steps`, and time in proportion to the next one, taken or not. Keep
that bound tight. To store every step, and pay for those taken only, pass
`diffrax.RecursiveCheckpointAdjoint(checkpoints=max_steps)`.

`backsolve` (`Backsolve`) solves a second ODE backwards for the gradient. Memory does
not depend on the number of steps. The gradient is that of the exact solution, known up
to the tolerance of two solves, and only as long as the field can be solved backwards
at all: see `SolveCounts.reconstruction_error`.
"""

import math
from typing import Literal, TypeAlias

import diffrax
import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, PyTree

from .limits import check_max_steps, check_tolerances


_CHECKPOINT_BYTES = 2**22
_FEWEST_CHECKPOINTS = 16

AdjointName: TypeAlias = Literal["discrete", "backsolve", "checkpoint", "direct"]


class Discrete(eqx.Module):
    """Settings of the discrete adjoint: how much of the forward solve it keeps.

    The states of as many steps as there are rows are kept, and nothing is computed
    twice. In a longer solve the rows hold the state of every second step, of every
    fourth, and so on, and the steps between are repeated on the way back: each of them
    once, up to as many steps as the rows squared, and more often beyond that.

    Attributes:
        rows: States to keep, at least 2; by default as many as `bytes` hold, but no
            fewer than 16, or the root of `max_steps` if that is less.
        bytes: Bound on what the rows take, where `rows` does not say how many. Each
            holds the state and, for methods such as `diffrax.Dopri5()` that use it
            again, the field there. Beside the rows, four or eight bytes are kept for
            every one of `max_steps` (for each of 262,144 steps if that is `None`).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> few = jaxode.Discrete(rows=8)
        >>> decay = lambda t, y, rate: -rate * y
        >>> sol = jaxode.odeint(decay, jnp.ones(()), [0.0, 9.0], 0.1, adjoint=few)
        >>> print(f"{sol.ys[-1]:.2f}")  # exp(-0.9)
        0.41
    """

    rows: int | None = eqx.field(static=True, default=None)
    bytes: int = eqx.field(static=True, default=2**22)

    def __check_init__(self):
        if self.rows is not None and self.rows < 2:
            raise ValueError(
                f"Discrete needs rows for at least 2 states; got rows={self.rows}. "
                "Leave it out for as many as fit into `bytes`."
            )

    def num_rows(self, row_bytes: int, capacity: int) -> int:
        """How many rows of so many bytes to have for so many steps: an even number."""
        # Rows of large states are worth their memory only as far as they save repeats,
        # and filling one with zeros takes as long as a call of a cheap field.
        fewest = min(_FEWEST_CHECKPOINTS, math.isqrt(capacity - 1) + 2)
        rows = self.rows or max(fewest, self.bytes // max(row_bytes, 1))
        return 2 * (min(rows, capacity + 1) // 2)


class Backsolve(eqx.Module):
    """Settings of the continuous adjoint; each one left out is as in the forward solve.

    In torchdiffeq's words: `adjoint_method`, `adjoint_rtol`, `adjoint_atol`, and
    `adjoint_options=dict(norm="seminorm")`.

    Attributes:
        solver: Diffrax solver of the backward solve. One without an error estimate
            takes equal steps, at most `dt0` long.
        rtol: Relative tolerance of the backward solve.
        atol: Absolute tolerance, in units of the state and of its cotangent. Where the
            loss is a mean, cotangents are far smaller than states, and the forward
            solve's tolerance does not see their error (`docs/findings.md`).
        controller: Adaptive controller, in place of one made from the tolerances.
        dt0: First step of the backward solve, > 0; where left out, the solve starts
            with the last step of the forward solve. With a forward solve in fixed
            steps, the bound on the backward steps.
        max_steps: Backward steps tried at most, in each read-out interval.
        seminorm: Leaves the parameters' part out of the error norm. It is an integral
            that feeds back into nothing, and controlling it costs steps (Kidger, Chen
            & Lyons 2021, "Hey, that's not an ODE", arXiv:2009.09457).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> decay = lambda t, y, rate: -rate * y
        >>> adjoint = jaxode.Backsolve(rtol=1e-6, atol=1e-9, seminorm=True)
        >>> end = lambda rate: jaxode.odeint(
        ...     decay, jnp.ones(()), [0.0, 1.0], rate, adjoint=adjoint
        ... ).ys[-1]
        >>> print(f"{jax.grad(end)(2.0):.1f}")  # -exp(-2)
        -0.1
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
        check_tolerances(self.rtol, self.atol)
        check_max_steps(self.max_steps)


Adjoint: TypeAlias = AdjointName | Discrete | Backsolve | diffrax.AbstractAdjoint
AdjointObject: TypeAlias = Discrete | Backsolve | diffrax.AbstractAdjoint

ADJOINTS: dict[str, AdjointObject] = {
    "discrete": Discrete(),
    "backsolve": Backsolve(),
    "checkpoint": diffrax.RecursiveCheckpointAdjoint(),
    "direct": diffrax.DirectAdjoint(),
}


def resolve_adjoint(adjoint: Adjoint) -> AdjointObject:
    """The adjoint that a name stands for, or the object itself.

    Raises:
        ValueError: for a name that is none of `ADJOINTS`.
        TypeError: for anything that is neither a name nor an adjoint.
    """
    if isinstance(adjoint, Discrete | Backsolve | diffrax.AbstractAdjoint):
        return adjoint
    names = ", ".join(repr(name) for name in ADJOINTS)
    if not isinstance(adjoint, str):
        raise TypeError(
            f"adjoint must be one of {names}, a jaxode.Discrete or jaxode.Backsolve, "
            f"or a diffrax.AbstractAdjoint; got {adjoint!r}."
        )
    if adjoint not in ADJOINTS:
        raise ValueError(f"Unknown adjoint {adjoint!r}; choose one of {names}.")
    return ADJOINTS[adjoint]


def with_checkpoints(
    adjoint: diffrax.AbstractAdjoint, y0: PyTree[Array], max_steps: int | None
) -> diffrax.AbstractAdjoint:
    """Fewer checkpoints than Diffrax takes by itself, where the state is large.

    Diffrax's number belongs to `max_steps`. Each gradient sets up room for all of them,
    used or not: with a state of 254 KiB and the default `max_steps` that alone took
    three times as long as two steps and their gradient. With 16, steps are recomputed
    once in solves of up to 16 steps, at most twice up to 153, three times up to 969.

    Args:
        adjoint: Any; only a `RecursiveCheckpointAdjoint` that leaves the number open is
            changed.
        y0: The state.
        max_steps: Steps tried at most.

    Reference:
        Stumm & Walther 2010, doi:10.1137/080742439, for the numbers of recomputations.
    """
    if not isinstance(adjoint, diffrax.RecursiveCheckpointAdjoint):
        return adjoint
    if adjoint.checkpoints is not None or max_steps is None:
        return adjoint
    fitting = _CHECKPOINT_BYTES // max(1, sum(y.nbytes for y in jax.tree.leaves(y0)))
    most = max(_FEWEST_CHECKPOINTS, fitting)
    # Diffrax's number is the least `n` for which `max_steps < (n + 1) * (n + 2) / 2`.
    if max_steps < (most + 1) * (most + 2) // 2:
        return adjoint
    return diffrax.RecursiveCheckpointAdjoint(checkpoints=most)
