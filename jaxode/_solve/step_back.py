"""One step of a solve as a function that can be pulled back."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._steps.lanes import varying_like
from .._steps.runge_kutta import Unrolled
from .own_gradient import Problem
from .read_out import pull_reads, Step
from .setup import made_jump_of, numbers_as_arrays, prepare, Setup


class Cotangents(NamedTuple):
    """What is carried from step to step, backwards.

    Attributes:
        y: dL/dy_k.
        solver: dL/ds_k.
        parameters: dL/dp of the steps so far.
        read: Index of the first of `ts` that has been dealt with.
    """

    y: PyTree[Array]
    solver: PyTree
    parameters: PyTree
    read: Int[Array, ""]


class Steps:
    """The steps of a solve as functions of what is differentiated.

    Attributes:
        problem: The solve.
        parameters: The arrays of the field and its `args` that are differentiated.
        rest: The field and its `args` without them.
        setup: Solver and times.
    """

    def __init__(self, problem: Problem, parameters: PyTree, rest: PyTree):
        self.problem = problem
        self.parameters = parameters
        self.rest = rest
        self.setup = self._setup(parameters)

    def _setup(self, parameters: PyTree) -> Setup:
        field, args = eqx.combine(parameters, self.rest)
        return prepare(field, args, self.problem.ts, self.problem.settings)

    def _step(self, parameters: PyTree, times: tuple, at: PyTree) -> tuple:
        """State, solver state and interpolant's parts after a step."""
        setup = self._setup(parameters)
        t0, t1, made_jump = times
        y, solver_state = at
        y1, _, dense_info, after, _ = setup.solver.step(
            setup.term, t0, t1, y, setup.args, solver_state, made_jump_of(made_jump)
        )
        return y1, after, dense_info

    def repeat(self, times: tuple, at: PyTree) -> PyTree:
        """Computes a step again.

        Args:
            times: Its start, its end, and whether it starts at a jump.
            at: State and solver state where it starts.

        Returns:
            Both where it ends.
        """
        solver: Any = self.setup.solver
        if issubclass(type(solver), Unrolled):
            t0, t1, made_jump = times
            y, state = at
            term, args = self.setup.term, self.setup.args
            return solver.repeat(term, t0, t1, y, args, state, made_jump_of(made_jump))
        y1, after, _ = self._step(self.parameters, times, at)
        # Diffrax's own solvers say `False` where a row holds an array.
        return y1, eqx.filter(numbers_as_arrays(after), eqx.is_array)

    def pull(
        self,
        times: tuple,
        at: PyTree,
        bars: Cotangents,
        ys_bar: PyTree[Array],
        active: Bool[Array, ""],
    ) -> Cotangents:
        """Pulls cotangents back through a step, and through the read-outs within.

        Args:
            times: As in `repeat`.
            at: As in `repeat`.
            bars: Cotangents where the step ends.
            ys_bar: Those of the state at `ts[1:]`.
            active: Whether there is such a step.

        Returns:
            The cotangents where it starts.
        """
        y, solver_state = at
        inexact, exact = eqx.partition(solver_state, eqx.is_inexact_array)

        def outputs(y, inexact, parameters):
            at = y, eqx.combine(inexact, exact)
            y1, after, dense_info = self._step(parameters, times, at)
            after = eqx.filter(after, eqx.is_inexact_array)
            out = y1, after, dense_info if self.setup.reads else None
            return varying_like(out, y, parameters)

        (y1, _, dense_info), vjp = jax.vjp(outputs, y, inexact, self.parameters)
        read, y1_bar, dense_bar = bars.read, bars.y, None
        if self.setup.reads:
            step = Step(times[0], times[1], y1, dense_info)
            read, y1_bar, dense_bar = pull_reads(
                self.setup, step, active, bars.read, bars.y, ys_bar
            )
        y_bar, solver_bar, parameters_bar = vjp((y1_bar, bars.solver, dense_bar))
        total = jax.tree.map(jnp.add, bars.parameters, parameters_bar)
        return Cotangents(y_bar, solver_bar, total, read)

    def pull_init(
        self, t1: Any, y0: PyTree, solver_bar: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Pulls the cotangent of the solver's first state back to `y0` and `p`.

        Args:
            t1: Where the first step ended.
            y0: The state at the first time.
            solver_bar: Cotangent of the solver's state there.
        """
        if not jax.tree.leaves(solver_bar):
            return jax.tree.map(jnp.zeros_like, (y0, self.parameters))

        def init(y0, parameters):
            setup = self._setup(parameters)
            state = setup.solver.init(setup.term, setup.ts[0], t1, y0, setup.args)
            state = eqx.filter(state, eqx.is_inexact_array)
            return varying_like(state, y0, parameters)

        return jax.vjp(init, y0, self.parameters)[1](solver_bar)
