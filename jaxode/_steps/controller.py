"""Step size controllers: how an adaptive solve starts, and when it gives up."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree


def _scaled(y: PyTree, scale: PyTree) -> PyTree:
    return jax.tree.map(lambda yi, si: jnp.abs(yi) / si, y, scale)


def hairer_initial_step(
    terms: diffrax.AbstractTerm,
    t0: Any,
    y0: PyTree,
    f0: PyTree,
    args: PyTree,
    order: Any,
    controller: diffrax.AbstractAdaptiveStepSizeController,
) -> Float[Array, ""]:
    """Length of the first step, at the cost of one field call.

    A step so short that an explicit Euler step is trusted gives a second derivative,
    and that the length at which a method of this order should just meet the tolerance.

    Reference:
        Hairer, Norsett & Wanner, Solving ODEs I, II.4, algorithm for the starting step
        size; as in Diffrax and torchdiffeq, `order` is the order of the error
        estimate rather than that plus one.
    """
    rtol, atol, norm = controller.rtol, controller.atol, controller.norm
    scale = jax.tree.map(lambda y: atol + rtol * jnp.abs(y), y0)
    d0 = norm(_scaled(y0, scale))
    d1 = norm(_scaled(f0, scale))
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = jnp.where(tiny, 1e-6, 0.01 * d0 / jnp.where(tiny, 1, d1))
    h0 = h0.astype(jnp.result_type(t0))
    euler = terms.prod(f0, terms.contr(t0, t0 + h0))
    f1 = terms.vf(t0 + h0, jax.tree.map(jnp.add, y0, euler), args)
    d2 = norm(_scaled(jax.tree.map(jnp.subtract, f1, f0), scale)) / h0
    largest = jnp.maximum(d1, d2)
    flat = largest <= 1e-15
    h1 = jnp.where(
        flat,
        jnp.maximum(1e-6, 1e-3 * h0),
        (0.01 / jnp.where(flat, 1, largest)) ** (1 / order),
    )
    return jnp.minimum(100 * h0, h1.astype(h0.dtype))


class _Wrapping(diffrax.AbstractAdaptiveStepSizeController):
    """A controller around another one, with the other's tolerances and norm."""

    controller: eqx.AbstractVar[diffrax.AbstractAdaptiveStepSizeController]

    @property
    def rtol(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.controller.rtol

    @property
    def atol(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.controller.atol

    @property
    def norm(self) -> Callable[[PyTree], Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.controller.norm

    def wrap(self, direction: Any) -> "_Wrapping":
        return eqx.tree_at(
            lambda c: c.controller, self, self.controller.wrap(direction)
        )


class InitialStep(_Wrapping):
    """Chooses the first step of an adaptive solve, and leaves the rest to `controller`.

    Diffrax 0.7.2 starts every solve with `dt0=None` at 0.01, whatever the problem,
    because its rule does not recognise the terms that `diffeqsolve` hands it. With

        diffrax.diffeqsolve(terms, solver, t0, t1, None, y0,
            stepsize_controller=jaxode.InitialStep(diffrax.PIDController(rtol, atol)))

    the solve starts with Hairer's rule, at two field calls, and takes fewer steps.

    Attributes:
        controller: The adaptive controller of all later steps.
        length: First step, > 0 in either direction of time; `None` for Hairer's rule.
        f0: The field at the start, where the caller has it, to save one call.
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
    ) -> tuple[Any, PyTree]:
        if dt0 is None:
            dt0 = self.length
        if dt0 is None:
            f0 = func(terms, t0, y0, args) if self.f0 is None else self.f0
            dt0 = hairer_initial_step(terms, t0, y0, f0, args, error_order, self)
        dt0 = jax.lax.stop_gradient(jnp.asarray(dt0, jnp.result_type(t0)))
        return self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: PyTree,
    ) -> tuple:
        return self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )


class Watch(eqx.Module):
    """What `Watched` has seen so far.

    Attributes:
        last_step: Length of the last accepted step, in units of time; 0 before it.
        rejected_at_start: Steps rejected before the first was accepted.
        after_jump: Steps tried from a time at which the field jumps.
        jumped: Whether the next step is one of these.
        non_finite: Whether the last rejected candidate held a NaN or an infinity.
        inner: State of the watched controller.
    """

    last_step: Float[Array, ""]
    rejected_at_start: Int[Array, ""]
    after_jump: Int[Array, ""]
    jumped: Bool[Array, ""]
    non_finite: Bool[Array, ""]
    inner: PyTree

    @classmethod
    def start(cls, t0: Array, inner: PyTree = None) -> "Watch":
        """Nothing seen yet, in a solve that starts at `t0`."""
        zero, no = jnp.array(0, jnp.int32), jnp.array(False)
        return cls(jnp.zeros_like(t0), zero, zero, no, no, inner)


def any_non_finite(y: PyTree) -> Bool[Array, ""]:
    leaves = [~jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]
    return jnp.any(jnp.stack(leaves))


def _resolution(t0: Any, t1: Any) -> Float[Array, ""]:
    """The shortest step worth trying: a few times the spacing of floating numbers."""
    eps = jnp.finfo(jnp.result_type(t0)).eps
    return 16 * eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))


class Watched(_Wrapping):
    """Records a solve's steps, and ends it where the step size underflows.

    Diffrax goes on shrinking the step until `max_steps` when a field returns NaN, and
    stands still until then when a step is too short to move the time. Here the solve
    ends with `RESULTS.dt_min_reached`.

    Attributes:
        controller: The adaptive controller that decides.
    """

    controller: diffrax.AbstractAdaptiveStepSizeController

    def __init__(self, controller: diffrax.AbstractAdaptiveStepSizeController):
        self.controller = controller

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
    ) -> tuple[Any, Watch]:
        t_next, inner = self.controller.init(
            terms, t0, t1, y0, dt0, args, func, error_order
        )
        return jnp.maximum(t_next, t0 + _resolution(t0, t_next)), Watch.start(t0, inner)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: PyTree,
        y_error: PyTree,
        error_order: Any,
        controller_state: Watch,
    ) -> tuple:
        keep, next_t0, next_t1, made_jump, inner, result = (
            self.controller.adapt_step_size(
                t0,
                t1,
                y0,
                y1_candidate,
                args,
                y_error,
                error_order,
                controller_state.inner,
            )
        )
        shortest = jnp.where(keep, 0, _resolution(t0, t1))
        stuck = ~(next_t1 - next_t0 > shortest)
        result = diffrax.RESULTS.where(stuck, diffrax.RESULTS.dt_min_reached, result)
        seen = controller_state
        watch = Watch(
            last_step=jnp.where(keep, t1 - t0, seen.last_step),
            rejected_at_start=seen.rejected_at_start
            + jnp.where(keep | (seen.last_step > 0), 0, 1),
            after_jump=seen.after_jump + jnp.where(seen.jumped, 1, 0),
            jumped=jnp.where(keep, made_jump, seen.jumped),
            # Looked at only after a rejection: an accepted candidate is finite, since
            # its error estimate was, and the pass over the state would not be free.
            non_finite=jax.lax.cond(
                keep,
                lambda: jnp.array(False),
                lambda: any_non_finite((y1_candidate, y_error)),
            ),
            inner=inner,
        )
        return keep, next_t0, next_t1, made_jump, watch, result
