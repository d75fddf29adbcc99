"""Explicit Runge-Kutta steps written stage after stage, on Diffrax's solver interface.

Diffrax runs the stages of a step in a while loop over buffers. For a state of up to a
few megabytes on a CPU the copying in that loop costs more than the arithmetic. Written
out, the stages fuse, unused ones are removed by the compiler, and the result is equal
to Diffrax's own to rounding. The price is compile time in proportion to the stages.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TYPE_CHECKING, TypeAlias, TypeGuard

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar

from .stages import combine, explicit_step, explicit_step_in_a_loop, Terms
from .tableaus import CLASSICAL, third_order_weights, THREE_EIGHTHS


_StepOut: TypeAlias = tuple[
    PyTree, PyTree | None, dict[str, Any], PyTree, diffrax.RESULTS
]


def _stack(stages: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *ks: jnp.stack(ks), *stages)


def _is_explicit(solver: diffrax.AbstractSolver) -> TypeGuard[diffrax.AbstractERK]:
    # `isinstance` looks through a wrapper such as `diffrax.HalfSolver`.
    return issubclass(type(solver), diffrax.AbstractERK)


class FirstStage(NamedTuple):
    """The first stage of the next step of a FSAL method, known from the step before.

    Attributes:
        t: The time at which it was evaluated, as the solver is given times: negated
            where the solve runs backwards.
        value: The field there.
    """

    t: Any
    value: PyTree


class Unrolled(diffrax.AbstractAdaptiveSolver):
    """A Diffrax explicit Runge-Kutta solver with its stages written out.

    `diffrax.diffeqsolve(terms, jaxode.Unrolled(diffrax.Tsit5()), ...)` takes the
    same steps as `diffrax.Tsit5()` to rounding, under every adjoint, step size
    controller, event and dense output, forwards and backwards in time.

    A FSAL method evaluates its first stage once, when the solve starts, and keeps it
    over rejected steps, so that `n` steps cost `1 + (num_stages - 1) * n` field calls.
    It is evaluated anew after a jump, and where a controller that clips at jumps moves
    the start of a step that it rejects.

    Attributes:
        solver: Any `diffrax.AbstractERK`, such as `diffrax.Dopri5()`.
    """

    solver: diffrax.AbstractERK

    term_structure: ClassVar = diffrax.AbstractTerm

    def __check_init__(self):
        if not _is_explicit(self.solver):
            raise ValueError(
                f"Unrolled got {type(self.solver).__name__}, which is not an "
                "explicit Runge-Kutta solver; pass one such as diffrax.Dopri5()."
            )

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.solver.interpolation_cls

    @property
    def tableau(self) -> diffrax.ButcherTableau:
        return self.solver.tableau  # pyright: ignore[reportReturnType]

    def order(self, terms: Terms) -> int | None:
        return self.solver.order(terms)

    def strong_order(self, terms: Terms) -> Any:
        return self.solver.strong_order(terms)

    def error_order(self, terms: Terms) -> Any:
        return self.solver.error_order(terms)

    def func(self, terms: Terms, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    def init(self, terms: Terms, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> PyTree:
        return FirstStage(t0, terms.vf(t0, y0, args)) if self.tableau.fsal else None

    def step(
        self,
        terms: Terms,
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: PyTree,
        made_jump: Any,
    ) -> _StepOut:
        tableau = self.tableau
        first = self._first_stage(terms, t0, y0, args, solver_state, made_jump)
        y1, stages, last = explicit_step(tableau, terms, t0, t1, y0, args, first)
        zeros = jax.tree.map(jnp.zeros_like, y0)
        y_error = combine(zeros, tableau.b_error, stages)
        dense_info = dict(y0=y0, y1=y1, k=_stack(stages))
        state = FirstStage(t1, last) if tableau.fsal else None
        return y1, y_error, dense_info, state, diffrax.RESULTS.successful

    def repeat(
        self,
        terms: Terms,
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: PyTree,
        made_jump: Any,
    ) -> tuple[PyTree, PyTree]:
        """A step that has been taken before: state and solver state after it.

        Its stages run in a loop, since it is compiled beside the step itself.
        """
        first = self._first_stage(terms, t0, y0, args, solver_state, made_jump)
        y1, last = explicit_step_in_a_loop(self.tableau, terms, t0, t1, y0, args, first)
        return y1, FirstStage(t1, last) if self.tableau.fsal else None

    def _first_stage(
        self,
        terms: Terms,
        t0: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: PyTree,
        made_jump: Any,
    ) -> PyTree:
        if not self.tableau.fsal or made_jump is True:
            return terms.vf(t0, y0, args)
        if made_jump is False:
            # No controller that knows no jumps moves the start of a step.
            return solver_state.value
        # Diffrax tells of no jump after a rejection, but the start may have moved.
        return jax.lax.cond(
            made_jump | (solver_state.t != t0),
            lambda: terms.vf(t0, y0, args),
            lambda: solver_state.value,
        )


class _ContinuousExtension(diffrax.AbstractLocalInterpolation):
    """Dense output of order three from the four stages of a step."""

    t0: Any
    t1: Any
    y0: PyTree
    y1: PyTree
    k: PyTree[Array]
    weights: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PyTree[Array]:
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        x = (t0 - self.t0) / jnp.where(self.t1 == self.t0, 1, self.t1 - self.t0)
        b: list[Any] = [
            sum(w * x ** (power + 1) for power, w in enumerate(row))
            for row in self.weights
        ]

        def leaf(y, k):
            return y + sum(bi.astype(y.dtype) * ki for bi, ki in zip(b, k, strict=True))

        return jax.tree.map(leaf, self.y0, self.k)


class _FourStages(diffrax.AbstractSolver):
    """What the two classical methods share; `tableau` tells them apart."""

    tableau: AbstractClassVar[diffrax.ButcherTableau]

    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights = tuple(map(tuple, third_order_weights(self.tableau).tolist()))
        return eqx.Partial(_ContinuousExtension, weights=weights)

    def order(self, terms: Terms) -> int:
        del terms
        return 4

    def func(self, terms: Terms, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    def init(self, terms: Terms, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> None:
        del terms, t0, t1, y0, args

    def step(
        self,
        terms: Terms,
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: None,
        made_jump: Any,
    ) -> _StepOut:
        del solver_state, made_jump
        first = terms.vf(t0, y0, args)
        y1, stages, _ = explicit_step(self.tableau, terms, t0, t1, y0, args, first)
        dense_info = dict(y0=y0, y1=y1, k=_stack(stages))
        return y1, None, dense_info, None, diffrax.RESULTS.successful


class RK4(_FourStages):
    """The classical Runge-Kutta method: order 4, 4 stages, no error estimate.

    For fixed steps: `odeint(..., solver=jaxode.RK4(), rtol=None, dt0=0.1)`.

    Reference:
        Kutta 1901; Hairer, Norsett & Wanner, Solving ODEs I, II.1, table 1.2.
    """

    tableau: ClassVar[diffrax.ButcherTableau] = CLASSICAL


class RK38(_FourStages):
    """Kutta's 3/8 rule: order 4, 4 stages, no error estimate.

    This is the method that torchdiffeq calls "rk4".

    Reference:
        Kutta 1901; Hairer, Norsett & Wanner, Solving ODEs I, II.1, table 1.2.
    """

    tableau: ClassVar[diffrax.ButcherTableau] = THREE_EIGHTHS


def unrolled(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """`solver` with its stages written out where it is an explicit Runge-Kutta one.

    Inside a `diffrax.HalfSolver` too: Diffrax 0.7.2 takes one around a Runge-Kutta
    solver for that solver, and fails under the adjoints that set options on it.
    """
    if isinstance(solver, diffrax.HalfSolver):
        return diffrax.HalfSolver(unrolled(solver.solver))
    return Unrolled(solver) if _is_explicit(solver) else solver
