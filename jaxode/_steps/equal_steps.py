"""Fixed steps that end on every read-out time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .controller import any_non_finite, StepHistory


class EqualSteps(diffrax.AbstractStepSizeController):
    """Steps of equal length, at most `longest`, landing exactly on every read-out time.

    Between neighbours `a` and `b` of `ts` there are `ceil(|b - a| / longest)` steps,
    and none where they are equal.
    A step whose result is not finite is undone and ends the solve with
    `RESULTS.dt_min_reached`, so that the state handed back is the last finite one.

    Attributes:
        longest: Bound on the step length, > 0, in units of time.
        ts: Read-out times, first and last included.
    """

    longest: ArrayLike
    ts: Float[Array, " time"]

    def wrap(self, direction: Any) -> "EqualSteps":
        # Diffrax's own backsolve hands the forward solve's controller to a solve that
        # runs the other way.
        return EqualSteps(self.longest, jnp.sort(self.ts * direction))

    def _next(self, t: Any) -> Float[Array, ""]:
        i = jnp.clip(jnp.searchsorted(self.ts, t, side="right"), 1, len(self.ts) - 1)
        start, end = self.ts[i - 1], self.ts[i]
        eps = jnp.finfo(self.ts.dtype).eps
        # 1 / 0.05 must give 20 steps in every precision, hence the rounding allowance.
        count = jnp.ceil((end - start) / self.longest * (1 - 4 * eps))
        # At the end of equal times there is no step left, and no length to divide by.
        length = jnp.where(end > start, (end - start) / jnp.maximum(count, 1), 1)
        left = jnp.round((end - t) / length)
        return jnp.where(left <= 1, end, t + (end - t) / jnp.maximum(left, 1))

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
        bad = any_non_finite(y1_candidate)
        last_step = jnp.where(bad, controller_state.last_step, t1 - t0)
        history = dataclasses.replace(
            controller_state, last_step=last_step, non_finite=bad
        )
        result = diffrax.RESULTS.where(
            bad, diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful
        )
        next_t0 = jnp.where(bad, t0, t1)
        return ~bad, next_t0, self._next(next_t0), False, history, result
