"""Fixed steps that end on every read-out time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from .controller import any_non_finite, StepHistory
from .sides import just_after, just_before


class EqualSteps(diffrax.AbstractStepSizeController):
    """Steps of equal length, at most `longest`, landing exactly on every read-out time.

    Between neighbours `a` and `b` of `ts` there are `ceil(|b - a| / longest)` steps,
    and none where they are equal.
    A step whose result is not finite is undone and ends the solve with
    `RESULTS.dt_min_reached`, so that the state handed back is the last finite one.

    A jump is a time to land on as well: a step ends just before it, and the next one
    starts just after.

    Attributes:
        longest: Bound on the step length, > 0, in units of time.
        ts: Read-out times, first and last included.
        jumps: Where the field jumps, if it does. Those outside of `ts` do not matter.
    """

    longest: ArrayLike
    ts: Float[Array, " time"]
    jumps: Float[Array, " jump"] | None = None

    def wrap(self, direction: Any) -> "EqualSteps":
        # Diffrax's own backsolve hands the forward solve's controller to a solve that
        # runs the other way.
        jumps = None if self.jumps is None else jnp.sort(self.jumps * direction)
        return EqualSteps(self.longest, jnp.sort(self.ts * direction), jumps)

    def _knots(self) -> Float[Array, " knot"]:
        if self.jumps is None:
            return self.ts
        inside = jnp.clip(self.jumps, self.ts[0], self.ts[-1])
        return jnp.sort(jnp.concatenate([self.ts, inside]))

    def _is_jump(self, t: Any) -> Bool[Array, ""]:
        return jnp.any(t == self.jumps)

    def _next(self, t: Any) -> Float[Array, ""]:
        knots = self._knots()
        i = jnp.clip(jnp.searchsorted(knots, t, side="right"), 1, len(knots) - 1)
        start, end = knots[i - 1], knots[i]
        eps = jnp.finfo(knots.dtype).eps
        # 1 / 0.05 must give 20 steps in every precision, hence the rounding allowance.
        count = jnp.ceil((end - start) / self.longest * (1 - 4 * eps))
        # At the end of equal times there is no step left, and no length to divide by.
        length = jnp.where(end > start, (end - start) / jnp.maximum(count, 1), 1)
        left = jnp.round((end - t) / length)
        if self.jumps is not None:
            last = jnp.where(self._is_jump(end), just_before(end), end)
            end = jnp.maximum(last, t)
        return jnp.where(left <= 1, end, t + (end - t) / jnp.maximum(left, 1))

    def _past_jump(self, t: Array) -> tuple[Array, Any]:
        """Where the step after one to `t` starts, and whether that is a jump."""
        if self.jumps is None:
            return t, False
        jump = just_after(t)
        is_before = self._is_jump(jump)
        return jnp.where(is_before, just_after(jump), t), is_before | self._is_jump(t)

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
        del terms, t1, y0, dt0, args, func, error_order
        return self._next(t0), StepHistory.start(t0)

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
        del y0, args, y_error, error_order
        seen = controller_state
        bad = any_non_finite(y1_candidate)
        next_t0, made_jump = self._past_jump(jnp.where(bad, t0, t1))
        history = dataclasses.replace(
            seen,
            last_step=jnp.where(bad, seen.last_step, t1 - t0),
            after_jump=seen.after_jump + jnp.where(seen.jumped, 1, 0),
            jumped=jnp.asarray(made_jump),
            non_finite=bad,
        )
        result = diffrax.RESULTS.where(
            bad, diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful
        )
        return ~bad, next_t0, self._next(next_t0), made_jump, history, result
