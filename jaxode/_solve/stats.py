"""What a solve reports: its own statistics, and counts that are summed over solves."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class SolveStats(eqx.Module):
    """Counts of one forward solve; a leading axis where the solve was batched.

    Attributes:
        nfe: Calls of the vector field; a Jacobian, which an implicit solver needs, is
            one. Calls made to compute a gradient are not among them. `None` where they
            are hidden: those of an implicit solver's root finder in Diffrax's own loop
            (`checkpoint`, `direct`, other adjoints of Diffrax) and in `odeint_event`.
        num_steps: Steps tried, which is accepted plus rejected ones.
        num_accepted_steps: Steps kept.
        num_rejected_steps: Steps thrown away because the error was too large.
        last_step: Length of the last accepted step, in units of time, >= 0.
        success: Whether the solve reached the last time.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> stats = jaxode.odeint(lambda t, y, args: -y, jnp.ones(3), [0.0, 1.0]).stats
        >>> isinstance(stats, jaxode.SolveStats), bool(stats.success)
        (True, True)
        >>> bool(stats.num_steps == stats.num_accepted_steps + stats.num_rejected_steps)
        True
    """

    nfe: Int[Array, "*batch"] | None
    num_steps: Int[Array, "*batch"]
    num_accepted_steps: Int[Array, "*batch"]
    num_rejected_steps: Int[Array, "*batch"]
    last_step: Float[Array, "*batch"]
    success: Bool[Array, "*batch"]


class SolveCounts(eqx.Module):
    """Counts summed over solves: over the forward ones, or over the way back.

    They are floating-point numbers because they leave a gradient computation the only
    way anything can: as the cotangent of an input (`_solve/probes.py`). Exact up to
    2**24.

    On the way back of `backsolve` they are those of the backward solves. Every other
    adjoint solves nothing backwards and differentiates the forward steps instead: these
    are then the steps, and none fails.

    Attributes:
        nfe: Calls of the vector field; on the way back its vector-Jacobian products,
            each of which evaluates the field as well. NaN where they are hidden, as
            where steps of an implicit solver are differentiated.
        num_steps: Steps tried.
        num_accepted_steps: Steps kept.
        num_rejected_steps: Steps thrown away.
        num_repeated_steps: On the way back of `discrete`, steps that were computed once
            more because their state had not been kept. 0 otherwise.
        num_solves: Solves; on the way back, solves that were differentiated.
        num_max_steps: Solves that took all the steps they were allowed. Like the next
            three, `backsolve` counts it for each interval between read-out times.
        num_non_finite: Solves that met a NaN or an infinity.
        num_underflow: Solves whose step size fell below the resolution of the time.
        num_other_failures: Solves whose solver failed by itself.
        reconstruction_error: On the way back of `backsolve`, `|y(t0) - y0| / |y0|` with
            `y(t0)` from solving backwards (the largest over the read-out intervals).
            Where this is not small, neither is the error of the gradient. 0 otherwise.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> square = lambda t, y, args: args * y
        >>> adjoint = jaxode.Backsolve()
        >>> loss = lambda a: jaxode.odeint(
        ...     square, jnp.ones(()), [0.0, 1.0], a, adjoint=adjoint
        ... ).ys[-1]
        >>> _, _, back = jaxode.value_and_grad_with_stats(loss)(jnp.array(0.5))
        >>> isinstance(back, jaxode.SolveCounts), bool(back.reconstruction_error < 1e-2)
        (True, True)
    """

    nfe: Float[Array, ""]
    num_steps: Float[Array, ""]
    num_accepted_steps: Float[Array, ""]
    num_rejected_steps: Float[Array, ""]
    num_repeated_steps: Float[Array, ""]
    num_solves: Float[Array, ""]
    num_max_steps: Float[Array, ""]
    num_non_finite: Float[Array, ""]
    num_underflow: Float[Array, ""]
    num_other_failures: Float[Array, ""]
    reconstruction_error: Float[Array, ""]

    @classmethod
    def zeros(cls) -> "SolveCounts":
        """Counts of no solve at all."""
        return cls.of()

    @classmethod
    def of(cls, **counts: Any) -> "SolveCounts":
        """These counts, with zeros for the rest."""
        zeros = dict.fromkeys(cls.__dataclass_fields__, 0)
        return cls(
            **{
                name: jnp.asarray(count).astype(jnp.float32)
                for name, count in (zeros | counts).items()
            }
        )

    @property
    def num_failures(self) -> Any:
        """Solves that did not reach the time they were to end at.

        A number like the fields: on the host, where these have been brought there.
        """
        return (
            self.num_max_steps
            + self.num_non_finite
            + self.num_underflow
            + self.num_other_failures
        )
