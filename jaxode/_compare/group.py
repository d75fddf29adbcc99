"""The cells of one solver and tolerance, measured side by side."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from .._solve.adjoints import AdjointObject, Backsolve, Discrete
from .failure import failure_of
from .measure import (
    forward_counts_of,
    Gradient,
    gradient_of,
    peak_bytes,
    Program,
    time_in_turns,
)
from .measurement import Measurement
from .reference import compare, compare_leaves, Leaves, named_leaves


class Bounds:
    """Steps that a solve needs at a tolerance, from one program for all of them.

    Attributes:
        max_steps: Steps after which a solve has failed.
    """

    def __init__(
        self,
        loss_fn: Callable,
        arguments: tuple[Any, ...],
        solver: diffrax.AbstractSolver | None,
        max_steps: int,
    ):
        self.max_steps = max_steps
        self._arguments = arguments
        self._program: Program | None = None

        def counts(tolerances, *arguments):
            rtol, atol = tolerances
            replaced = _replacements("discrete", solver, rtol, atol, max_steps)
            return forward_counts_of(loss_fn, replaced)(*arguments)

        self._counts = counts

    def steps(self, rtol: float, atol: float) -> tuple[int, Exception | None]:
        """Steps of a solve, the mean of several; or why it cannot be had."""
        tolerances = (jnp.asarray(rtol), jnp.asarray(atol))
        try:
            if self._program is None:
                self._program = Program(self._counts, tolerances, *self._arguments)
            found = self._program.on(tolerances, *self._arguments)
        except Exception as error:
            return self.max_steps, error
        mean = -(-int(found.num_steps) // max(int(found.num_solves), 1))
        return max(1, min(mean, self.max_steps)), None


@dataclasses.dataclass(frozen=True)
class Group:
    """What the cells of a group have in common.

    Attributes:
        loss_fn: The loss.
        arguments: What it is given, the parameters first.
        solver_name: What the solver is called.
        solver: The solver, or `None` for the loss's own.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        truth: The reference gradient, or `None`.
    """

    loss_fn: Callable
    arguments: tuple[Any, ...]
    solver_name: str
    solver: diffrax.AbstractSolver | None
    rtol: float
    atol: float
    truth: Leaves | None

    def measure(
        self,
        adjoints: Mapping[str, AdjointObject],
        bounds: Bounds,
        rounds: int,
        advance: Callable[[str], None],
    ) -> list[Measurement]:
        """A cell for each adjoint; none of them can keep the others from theirs."""
        cells, outcomes, programs = {}, {}, {}
        tight, impossible = bounds.steps(self.rtol, self.atol)
        for name, adjoint in adjoints.items():
            try:
                if impossible is not None:
                    raise impossible
                program, outcome, bound = self._compute(adjoint, tight, bounds)
            except Exception as error:
                cells[name] = self._cell(name, failure=failure_of(error))
            else:
                cells[name] = self._counted(name, adjoint, program, outcome, bound)
                if cells[name].failure is None:
                    outcomes[name], programs[name] = outcome, program
            advance(f"{name}, {self.solver_name}, rtol {self.rtol:g}")
        timings = time_in_turns(list(programs.values()), rounds)
        steps_taken = _differentiates_steps(adjoints, outcomes)
        for (name, outcome), timing in zip(outcomes.items(), timings, strict=True):
            cells[name] = dataclasses.replace(
                cells[name],
                seconds=timing.median,
                seconds_fastest=timing.fastest,
                seconds_slowest=timing.slowest,
                consistency=steps_taken and _consistency(outcome, steps_taken),
            )
        return list(cells.values())

    def _cell(self, name: str, **known: Any) -> Measurement:
        return Measurement(name, self.solver_name, self.rtol, self.atol, **known)

    def _compute(
        self, adjoint: AdjointObject, bound: int, bounds: Bounds
    ) -> tuple[Program, Gradient, int]:
        """Compiles and runs it, with more steps where `bound` turns out too small."""
        if isinstance(adjoint, Backsolve) and adjoint.max_steps is None:
            # Its backward solve has steps of its own, and does not pay for the bound.
            adjoint = dataclasses.replace(adjoint, max_steps=bounds.max_steps)
        while True:
            replaced = _replacements(adjoint, self.solver, self.rtol, self.atol, bound)
            program = Program(gradient_of(self.loss_fn, replaced), *self.arguments)
            outcome = jax.device_get(program())
            # The longest of several solves needs more than their mean, and an adjoint
            # that comes with a forward method of its own may, too.
            if outcome.forward.num_max_steps == 0 or bound >= bounds.max_steps:
                return program, outcome, bound
            bound = min(2 * bound, bounds.max_steps)

    def _counted(
        self,
        name: str,
        adjoint: AdjointObject,
        program: Program,
        outcome: Gradient,
        bound: int,
    ) -> Measurement:
        """A cell with all but what the others of the group are needed for."""
        forward, backward = outcome.forward, outcome.backward
        cell = self._cell(
            name,
            max_steps=bound,
            failure=failure_of(outcome, bound),
            loss=float(outcome.loss),
            nfe_forward=_count(forward.nfe),
            num_accepted_steps=_count(forward.num_accepted_steps),
            num_rejected_steps=_count(forward.num_rejected_steps),
            temporary_bytes=program.temporary_bytes,
            peak_bytes=peak_bytes(),
            compile_seconds=program.compile_seconds,
        )
        if not isinstance(adjoint, diffrax.BacksolveAdjoint):
            cell = dataclasses.replace(
                cell,
                nfe_backward=_count(backward.nfe),
                num_steps_backward=_count(backward.num_steps),
                num_rejected_steps_backward=_count(backward.num_rejected_steps),
                reconstruction_error=float(backward.reconstruction_error) or None,
            )
        if self.truth is None or cell.failure is not None:
            return cell
        leaves = named_leaves(outcome.grads)
        whole = compare(leaves, self.truth)
        return dataclasses.replace(
            cell,
            gradient_error=whole.error,
            cosine=whole.cosine,
            leaf_errors=compare_leaves(leaves, self.truth),
        )


def _replacements(
    adjoint: Any,
    solver: diffrax.AbstractSolver | None,
    rtol: Any,
    atol: Any,
    max_steps: int,
) -> dict[str, Any]:
    """The fields of every solve's settings that a cell is about."""
    replaced = dict(
        adjoint=adjoint,
        rtol=rtol,
        atol=atol,
        dt0=None,
        controller=None,
        max_steps=max_steps,
        throw=False,
    )
    return replaced if solver is None else replaced | {"solver": solver}


def _differentiates_steps(
    adjoints: Mapping[str, AdjointObject], outcomes: Mapping[str, Gradient]
) -> Gradient | None:
    """A gradient of the steps as they were computed, if there is one."""
    kinds = (diffrax.DirectAdjoint, diffrax.RecursiveCheckpointAdjoint, Discrete)
    for kind in kinds:
        for name, outcome in outcomes.items():
            if isinstance(adjoints[name], kind):
                return outcome
    return None


def _consistency(outcome: Gradient, steps_taken: Gradient) -> float | None:
    """Distance between two gradients, if they are of the same steps."""
    if outcome.forward.num_steps != steps_taken.forward.num_steps or not np.array_equal(
        outcome.forward.nfe, steps_taken.forward.nfe, equal_nan=True
    ):
        return None
    return compare(named_leaves(outcome.grads), named_leaves(steps_taken.grads)).error


def _count(number: Any) -> int | None:
    return round(float(number)) if np.isfinite(number) else None
