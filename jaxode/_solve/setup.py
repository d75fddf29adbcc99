"""The part of a solve that stays the same from step to step.

Time always increases in our own loop. A solve that runs backwards runs in negated time,
with the field negated: dy/ds = -f(-s, y) for s = -t.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._steps.controller import InitialStep
from .._steps.equal_steps import EqualSteps
from .._steps.sides import between
from .arguments import is_concrete
from .control import can_jump, controller_for
from .settings import SolveSettings


class Directed(eqx.Module):
    """A field in the loop's time, which increases.

    Attributes:
        field: The field.
        direction: 1 or -1, in the dtype of the times; `None` where time increases.
    """

    field: Any
    direction: Float[Array, ""] | None

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        direction = self.direction
        if direction is None:
            return self.field(t, y, args)
        out = self.field(t * direction, y, args)
        return jax.tree.map(lambda f: f * direction.astype(f.dtype), out)


class Setup(NamedTuple):
    """What stays the same from step to step.

    Attributes:
        term: The field, as Diffrax's solvers take it.
        solver: The solver, with tolerances if it needs any.
        controller: What decides on the steps.
        args: Passed to the field.
        ts: The times asked for, increasing.
        direction: What they were multiplied by to increase, if by anything.
        max_steps: Steps tried at most, or `None`.
        can_jump: Whether the controller may say that a step starts at a jump.
        reads: Whether there are times between the first and the last.
        pooled_axes: Axes of a mesh whose devices take every step together.
        differentiable: Whether JAX is to differentiate the loops by itself.
        counter: What counts the calls of a step, if no formula knows them (`step.py`).
    """

    term: diffrax.ODETerm
    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    args: PyTree
    ts: Float[Array, " time"]
    direction: Float[Array, ""] | None
    max_steps: int | None
    can_jump: bool
    reads: bool
    pooled_axes: tuple[str, ...] = ()
    differentiable: bool = False
    counter: Any = None


def prepare(
    field: Any, args: PyTree, ts: Float[Array, " time"], settings: SolveSettings
) -> Setup:
    """The part of a solve that stays the same from step to step.

    Args:
        field: Vector field.
        args: Passed to the field.
        ts: At least two times, increasing or decreasing, not differentiated.
        settings: As `SolveSettings.for_times` returns them.
    """
    increases = ts[-1] >= ts[0]
    field = between(field, ts[0], ts[-1], settings.jumps)
    controller = controller_for(settings, ts)
    if is_concrete(increases) and bool(increases):
        sign, direction = 1, None
    else:
        sign = jnp.where(increases, 1, -1)
        direction = sign.astype(ts.dtype)
        ts = ts * direction
    return Setup(
        term=diffrax.ODETerm(Directed(field, direction)),
        solver=with_tolerances(settings.solver, controller),
        # An integer, as Diffrax has it: times that a controller holds may be of another
        # precision. It also sorts them.
        controller=controller.wrap(sign),
        args=args,
        ts=ts,
        direction=direction,
        max_steps=settings.max_steps,
        can_jump=can_jump(settings),
        reads=ts.shape[0] > 2,
        pooled_axes=settings.pooled_axes,
    )


def numbers_as_arrays(tree: PyTree) -> PyTree:
    """Python numbers as arrays, as a loop carries them."""
    return jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, tree)


def made_jump_of(made_jump: Array | None) -> Any:
    """What solvers are told: `False` at trace time where no step starts at a jump."""
    return False if made_jump is None else made_jump


def with_tolerances(
    solver: diffrax.AbstractSolver,
    controller: InitialStep | EqualSteps,
) -> diffrax.AbstractSolver:
    """The solver, its root finder with the controller's tolerances if it has none.

    Diffrax marks them by an object of its own that is no number and no function.

    Raises:
        ValueError: where steps are fixed and the root finder has none.
    """
    # `isinstance` looks through it, its attributes do not.
    if issubclass(type(solver), diffrax.HalfSolver):
        halved: Any = solver
        inner = with_tolerances(halved.solver, controller)
        return eqx.tree_at(lambda s: s.solver, halved, inner)
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return solver
    finder: Any = solver.root_finder
    is_open = {
        "rtol": not eqx.is_array_like(finder.rtol),
        "atol": not eqx.is_array_like(finder.atol),
        "norm": not callable(finder.norm),
    }
    names = [name for name, is_open in is_open.items() if is_open]
    if not names:
        return solver
    if isinstance(controller, EqualSteps):
        raise ValueError(
            f"{type(solver).__name__} takes fixed steps here, so its root finder needs "
            "tolerances of its own; pass a solver with root_finder=diffrax.VeryChord("
            "rtol=1e-3, atol=1e-6, norm=optimistix.max_norm)."
        )
    return eqx.tree_at(
        lambda s: [getattr(s.root_finder, name) for name in names],
        solver,
        [getattr(controller, name) for name in names],
    )
