"""What a comparison measures: one cell for each adjoint, solver and tolerance."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LeafError:
    """How far the gradient of one array of the parameters is from the reference.

    Attributes:
        error: Norm of the difference over the norm of the reference; `None` where the
            reference is zero, or there is none.
        cosine: Cosine of the angle between the two; `None` likewise.

    Examples:
        >>> import jaxode
        >>> one = jaxode.LeafError(error=0.01, cosine=0.9999)
        >>> one.error
        0.01
    """

    error: float | None
    cosine: float | None


@dataclasses.dataclass(frozen=True)
class Reference:
    """The gradient that all others are held against, in double precision.

    Attributes:
        loss: The loss, as computed for it.
        error: Relative difference to the same at ten times the tolerance, which bounds
            what the reference itself is off by. Errors below it mean nothing.
        rtol: Its tolerance, relative and absolute.
        solver: Name of its solver.
        steps: Steps it took, summed over the solves of one loss.
        failure: Why there is none, or `None`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> loss_fn = lambda p: jaxode.odeint(
        ...     lambda t, y, p: -p * y, jnp.ones(()), [0.0, 1.0], p
        ... ).ys[-1]
        >>> reference = jaxode.compare_adjoints(
        ...     loss_fn, jnp.array(2.0), adjoints=("discrete",), rtols=(1e-3,)
        ... ).reference
        >>> isinstance(reference, jaxode.Reference), round(reference.loss, 6)  # exp(-2)
        (True, 0.135335)
    """

    loss: float | None
    error: float | None
    rtol: float
    solver: str
    steps: int | None = None
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One gradient: how it was asked for, how right it is, and what it cost.

    Counts are sums over all solves of one loss. What was not measured, because the
    cell failed or the platform does not tell, is `None`.

    Attributes:
        adjoint: How it was taken.
        solver: Name of the solver; `"as given"` where the loss's own was left.
        rtol: Relative tolerance of every solve.
        atol: Absolute tolerance of every solve.
        max_steps: Bound on the steps, as tight as it can be: `checkpoint` and `direct`
            pay for it.
        failure: What went wrong, or `None`. A cell that failed keeps what was measured.
        loss: The loss.
        gradient_error: Norm of the difference to the reference gradient, over the norm
            of that. It holds the error of the solve as well as that of the adjoint.
        cosine: Cosine of the angle between the two.
        leaf_errors: The same for each array, by its path in the parameters.
        consistency: Norm of the difference to the derivative of the loss as it was
            computed (that of `checkpoint` or `direct` at the same solver and
            tolerance), over the norm of that: what the adjoint alone is off by. `None`
            where neither was compared or the adjoint changes the solve.
        nfe_forward: Field calls of the forward solves; `None` where the solver hides
            them.
        nfe_backward: Vector-Jacobian products of the field.
        num_accepted_steps: Forward steps kept.
        num_rejected_steps: Forward steps thrown away.
        num_steps_backward: Backward steps tried, or forward steps that were
            differentiated.
        num_rejected_steps_backward: Those of them that were rejected.
        reconstruction_error: Distance between the initial state and where the backward
            solve arrived, over the norm of the former; `None` for adjoints that
            reconstruct nothing.
        temporary_bytes: What the compiled gradient allocates beside its arguments and
            results, by the compiler's account.
        peak_bytes: High-water mark of the device's memory after the cell ran. It never
            falls, so it says something of the cell that raised it only.
        seconds: Seconds for one gradient, compiled: median over the rounds.
        seconds_fastest: The fastest round.
        seconds_slowest: The slowest round.
        compile_seconds: Seconds to trace and compile it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> loss_fn = lambda p: jaxode.odeint(
        ...     lambda t, y, p: -p * y, jnp.ones(()), [0.0, 1.0], p
        ... ).ys[-1]
        >>> (one,) = jaxode.compare_adjoints(
        ...     loss_fn, jnp.array(2.0), adjoints=("discrete",), rtols=(1e-3,)
        ... ).cells
        >>> isinstance(one, jaxode.Measurement), one.adjoint, one.nfe_backward > 0
        (True, 'discrete', True)
    """

    adjoint: str
    solver: str
    rtol: float
    atol: float
    max_steps: int | None = None
    failure: str | None = None
    loss: float | None = None
    gradient_error: float | None = None
    cosine: float | None = None
    leaf_errors: dict[str, LeafError] = dataclasses.field(default_factory=dict)
    consistency: float | None = None
    nfe_forward: int | None = None
    nfe_backward: int | None = None
    num_accepted_steps: int | None = None
    num_rejected_steps: int | None = None
    num_steps_backward: int | None = None
    num_rejected_steps_backward: int | None = None
    reconstruction_error: float | None = None
    temporary_bytes: int | None = None
    peak_bytes: int | None = None
    seconds: float | None = None
    seconds_fastest: float | None = None
    seconds_slowest: float | None = None
    compile_seconds: float | None = None
