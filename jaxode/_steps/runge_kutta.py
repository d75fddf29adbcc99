"""Explicit Runge-Kutta steps written stage after stage, on Diffrax's solver interface.

Diffrax runs the stages of a step in a while loop over buffers. For a state of up to a
few megabytes on a CPU the copying in that loop costs more than the arithmetic. Written
out, the stages fuse, unused ones are removed by the compiler, and the result is equal
to Diffrax's own to rounding. The price is compile time in proportion to the stages.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeGuard

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .stages import combine, explicit_step, explicit_step_in_a_loop, Terms


StepOut: TypeAlias = tuple[
    PyTree, PyTree | None, dict[str, Any], PyTree, diffrax.RESULTS
]


def stack(stages: list[PyTree]) -> PyTree:
    """The stages as rows, which is what interpolants are made of."""
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

    Examples:
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> term = diffrax.ODETerm(lambda t, y, args: -y)
        >>> solver = jaxode.Unrolled(diffrax.Tsit5())
        >>> print(diffrax.diffeqsolve(term, solver, 0.0, 1.0, 0.1, jnp.ones(1)).ys)
        [[0.367879...]]
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
    ) -> StepOut:
        tableau = self.tableau
        first = self._first_stage(terms, t0, y0, args, solver_state, made_jump)
        y1, stages, last = explicit_step(tableau, terms, t0, t1, y0, args, first)
        zeros = jax.tree.map(jnp.zeros_like, y0)
        y_error = combine(zeros, tableau.b_error, stages)
        dense_info = dict(y0=y0, y1=y1, k=stack(stages))
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


def unrolled(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """`solver` with its stages written out where it is an explicit Runge-Kutta one.

    Inside a `diffrax.HalfSolver` too: Diffrax 0.7.2 takes one around a Runge-Kutta
    solver for that solver, and fails under the adjoints that set options on it.
    """
    if isinstance(solver, diffrax.HalfSolver):
        return diffrax.HalfSolver(unrolled(solver.solver))
    return Unrolled(solver) if _is_explicit(solver) else solver
