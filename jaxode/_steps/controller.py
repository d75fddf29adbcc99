"""The step size controller of every adaptive solve: its start, its history, its end."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .carried import controlled
from .initial_step import hairer_initial_step
from .lanes import varying_like
from .pooled import with_totals
from .sides import end_of_first_piece


class StepHistory(eqx.Module):
    """What a controller has seen of a solve so far.

    Attributes:
        last_step: Length of the last accepted step, in units of time; 0 before it.
        rejected_at_start: Steps rejected before the first was accepted.
        after_jump: Steps tried from a time at which the field jumps.
        jumped: Whether the next step is one of these.
        after_move: Steps tried from another time than the rejected step before them,
            which a controller that clips at jumps has moved past one.
        moved: Whether the next step is one of these.
        non_finite: Whether the last rejected candidate held a NaN or an infinity.
        inner: State of the controller that decides.
    """

    last_step: Float[Array, ""]
    rejected_at_start: Int[Array, ""]
    after_jump: Int[Array, ""]
    jumped: Bool[Array, ""]
    after_move: Int[Array, ""]
    moved: Bool[Array, ""]
    non_finite: Bool[Array, ""]
    inner: PyTree

    @classmethod
    def start(cls, t0: Array, inner: PyTree = None) -> "StepHistory":
        """Nothing seen yet, in a solve that starts at `t0`."""
        zero, no = jnp.array(0, jnp.int32), jnp.array(False)
        return cls(
            last_step=jnp.zeros_like(t0),
            rejected_at_start=zero,
            after_jump=zero,
            jumped=no,
            after_move=zero,
            moved=no,
            non_finite=no,
            inner=inner,
        )


def any_non_finite(y: PyTree) -> Bool[Array, ""]:
    """Whether any leaf holds a NaN or an infinity."""
    leaves = [~jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]
    return jnp.any(jnp.stack(leaves))


def _resolution(t0: Any, t1: Any) -> Float[Array, ""]:
    """The shortest step worth trying: a few times the spacing of floating numbers."""
    eps = jnp.finfo(jnp.result_type(t0)).eps
    return 16 * eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))


class InitialStep(diffrax.AbstractAdaptiveStepSizeController):
    """Starts an adaptive solve by Hairer's rule, ends it where its step underflows.

    Diffrax 0.7.2 starts every solve with `dt0=None` at 0.01, whatever the problem,
    because its rule does not recognise the terms that `diffeqsolve` hands it. With

        diffrax.diffeqsolve(terms, solver, t0, t1, None, y0,
            stepsize_controller=jaxode.InitialStep(diffrax.PIDController(rtol, atol)))

    the solve starts with Hairer's rule, at two field calls, and takes fewer steps.

    Diffrax also goes on shrinking the step until `max_steps` when a field returns NaN,
    and stands still until then when a step is too short to move the time. Here the
    solve ends with `RESULTS.dt_min_reached`. All steps between are those of
    `controller`; with `SaveAt(controller_state=True)` a `StepHistory` tells of them.

    Attributes:
        controller: The adaptive controller of all later steps.
        length: First step, > 0 in either direction of time; `None` for Hairer's rule.
        f0: The field at the start, where the caller has it, to save one call.

    Examples:
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> term = diffrax.ODETerm(lambda t, y, args: -y)
        >>> controller = jaxode.InitialStep(diffrax.PIDController(rtol=1e-3, atol=1e-6))
        >>> sol = diffrax.diffeqsolve(
        ...     term,
        ...     diffrax.Dopri5(),
        ...     0.0,
        ...     1.0,
        ...     None,
        ...     jnp.ones(1),
        ...     stepsize_controller=controller,
        ... )
        >>> print(f"{sol.ys[0, 0]:.3f}")
        0.368
    """

    controller: diffrax.AbstractAdaptiveStepSizeController
    length: ArrayLike | None
    f0: PyTree

    def __init__(
        self,
        controller: diffrax.AbstractAdaptiveStepSizeController,
        length: ArrayLike | None = None,
        f0: PyTree = None,
    ):
        self.controller = controller
        self.length = length
        self.f0 = f0

    # Solvers that solve equations themselves look for these on the controller.

    @property
    def rtol(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.controller.rtol

    @property
    def atol(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.controller.atol

    @property
    def norm(self) -> Callable[[PyTree], Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        norm = self.controller.norm
        return lambda tree: norm(controlled(tree))

    def wrap(self, direction: Any) -> "InitialStep":
        controller = self.controller.wrap(direction)
        return eqx.tree_at(lambda c: c.controller, self, controller)

    def init(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: PyTree,
        dt0: Any,
        args: PyTree,
        func: Callable,
        error_order: Any,
    ) -> tuple[Any, StepHistory]:
        if dt0 is None:
            dt0 = self.length
        if dt0 is None:
            f0 = func(terms, t0, y0, args) if self.f0 is None else self.f0
            end = end_of_first_piece(self.controller, jnp.asarray(t0), t1)
            dt0 = hairer_initial_step(terms, t0, end, y0, f0, args, error_order, self)
        dt0 = jax.lax.stop_gradient(jnp.asarray(dt0, jnp.result_type(t0)))
        t_next, inner = self.controller.init(
            terms, t0, t1, controlled(y0), dt0, args, func, error_order
        )
        history = StepHistory.start(t0, inner)
        return jnp.maximum(t_next, t0 + _resolution(t0, t_next)), history

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: StepHistory,
    ) -> tuple:
        seen = controller_state
        states = controlled(y0), controlled(y1_candidate), controlled(y_error)
        start, end, error = with_totals(self.controller.norm, *states)
        keep, next_t0, next_t1, made_jump, inner, result = (
            self.controller.adapt_step_size(
                t0, t1, start, end, args, error, error_order, seen.inner
            )
        )

        # The end: a step that was rejected and cannot be made shorter.
        shortest = jnp.where(keep, 0, _resolution(t0, t1))
        stuck = ~(next_t1 - next_t0 > shortest)
        result = diffrax.RESULTS.where(stuck, diffrax.RESULTS.dt_min_reached, result)

        # The history.
        history = StepHistory(
            last_step=jnp.where(keep, t1 - t0, seen.last_step),
            rejected_at_start=seen.rejected_at_start
            + jnp.where(keep | (seen.last_step > 0), 0, 1),
            after_jump=seen.after_jump + jnp.where(seen.jumped, 1, 0),
            jumped=jnp.where(keep, made_jump, seen.jumped),
            after_move=seen.after_move + jnp.where(seen.moved & ~seen.jumped, 1, 0),
            moved=~keep & (seen.moved | (next_t0 != t0)),
            # Looked at only after a rejection: an accepted candidate is finite, since
            # its error estimate was, and the pass over the state would not be free.
            non_finite=jax.lax.cond(
                keep,
                lambda: varying_like(~keep, y1_candidate, y_error),
                lambda: any_non_finite((y1_candidate, y_error)),
            ),
            inner=inner,
        )
        return keep, next_t0, next_t1, made_jump, history, result
