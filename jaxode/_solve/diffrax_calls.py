"""How often Diffrax's loop calls a field: formulas, since it counts steps only."""

from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._steps.classical import RK4, RK38
from .._steps.runge_kutta import Unrolled


def forward_calls(
    solver: diffrax.AbstractSolver,
    num_steps: Int[Array, ""],
    rejected_at_start: Int[Array, ""],
    after_jump: Int[Array, ""],
    after_move: Int[Array, ""],
) -> Int[Array, ""] | None:
    """Field calls of a solve, `None` where they cannot be known from its steps.

    Args:
        solver: The solver.
        num_steps: Steps tried.
        rejected_at_start: Steps rejected before the first was accepted.
        after_jump: Steps tried from a jump, where a first stage that was kept from the
            step before is not valid.
        after_move: Other steps tried from where it is not, since their start has been
            moved after a rejection.
    """
    if isinstance(solver, diffrax.HalfSolver):
        # A step is tried once in full and once in halves, the second of them from a
        # place where the first stage is known.
        inner = solver.solver
        tableau: Any = getattr(inner, "tableau", None)
        explicit = Unrolled | diffrax.AbstractERK
        if isinstance(inner, explicit) and tableau.fsal:
            fresh = 1 + 2 * after_jump
            if isinstance(inner, Unrolled):
                fresh = fresh + 2 * after_move
            else:
                # The half and the full step each start anew, as below.
                fresh = fresh + 1 + 2 * rejected_at_start
            return fresh + 3 * (tableau.num_stages - 1) * num_steps
        if isinstance(inner, explicit | diffrax.Euler | RK4 | RK38):
            none = jnp.zeros_like(num_steps)
            return forward_calls(inner, 3 * num_steps, none, none, none)
        return None
    if isinstance(solver, RK4 | RK38):
        return 4 * num_steps
    if isinstance(solver, Unrolled | diffrax.AbstractERK):
        tableau: Any = solver.tableau
        stages = tableau.num_stages
        if not tableau.fsal:
            return stages * num_steps
        fresh = 1 + after_jump
        if isinstance(solver, Unrolled):
            fresh = fresh + after_move
        else:
            # Diffrax evaluates the first stage anew until a step has been accepted.
            fresh = fresh + rejected_at_start
        return fresh + (stages - 1) * num_steps
    if isinstance(solver, diffrax.ReversibleHeun):
        return 1 + after_jump + num_steps
    if isinstance(solver, diffrax.Euler | diffrax.LeapfrogMidpoint):
        return num_steps
    return None
