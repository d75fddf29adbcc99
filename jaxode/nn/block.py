"""The ODE block: a layer whose output is the solution of an ODE."""

import dataclasses
from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._solve.adjoints import Adjoint, resolve_adjoint
from .._solve.arguments import check_kinds, check_step_control
from .._solve.closures import VectorField
from .._solve.odeint import odeint
from .._solve.stats import BackwardStats, SolveStats
from .field import solve_form


_Block = TypeVar("_Block", bound="ODEBlock")


class ODEBlock(eqx.Module):
    """y1 = y(t1), where dy/dt = field(t, y, args) and y(0) = y0.

    By default the whole batch is ONE ODE: one sequence of steps serves every sample, as
    in torchdiffeq, so what comes out for a sample depends, within tolerance, on the
    others in its batch. With `per_sample` each sample has steps of its own and the
    field is called with a batch of one; the loop runs until the slowest is done.

    All settings are static, that is, part of the compiled program, and the block's only
    arrays are the field's: a trained block takes other settings by `with_solve`.

    Attributes:
        field: Vector field: a `ConvField`, or any module or function on any pytree.
        solver: As in `odeint`, and so are the next five.
        adjoint: How gradients are taken.
        rtol: Relative tolerance, or `None` for fixed steps.
        atol: Absolute tolerance, in units of the state.
        dt0: First step, or the length of fixed steps.
        max_steps: Steps tried at most.
        t1: End of the integration, which starts at time 0. May be negative.
        per_sample: Whether each sample is an ODE of its own.
        unroll: As in `odeint`.
    """

    field: VectorField
    solver: diffrax.AbstractSolver = eqx.field(static=True)
    adjoint: Adjoint = eqx.field(static=True)
    rtol: float | None = eqx.field(static=True)
    atol: float | None = eqx.field(static=True)
    dt0: float | None = eqx.field(static=True)
    max_steps: int | None = eqx.field(static=True)
    t1: float = eqx.field(static=True)
    per_sample: bool = eqx.field(static=True)
    unroll: bool = eqx.field(static=True)

    def __init__(
        self,
        field: VectorField,
        *,
        solver: diffrax.AbstractSolver | None = None,
        adjoint: Adjoint = "checkpoint",
        rtol: float | None = 1e-3,
        atol: float | None = 1e-6,
        dt0: float | None = None,
        max_steps: int | None = 4096,
        t1: float = 1.0,
        per_sample: bool = False,
        unroll: bool = True,
    ):
        """Checks the settings; see the class for what they are.

        Raises:
            TypeError: for a solver or an adjoint of the wrong kind.
            ValueError: for settings that are out of range or contradict each other.
        """
        self.field = field
        self.solver = diffrax.Dopri5() if solver is None else solver
        resolve_adjoint(adjoint)  # for its errors: a name reads better in a repr
        self.adjoint = adjoint
        self.rtol, self.atol, self.dt0 = (
            None if x is None else float(x) for x in (rtol, atol, dt0)
        )
        self.max_steps = max_steps
        self.t1 = float(t1)
        if not (abs(self.t1) < float("inf") and self.t1):
            raise ValueError(
                f"t1={t1}: the block integrates from time 0 to t1, so that must be "
                "finite and not zero; pass t1=1.0."
            )
        self.per_sample = per_sample
        self.unroll = unroll
        check_kinds(self.solver, None)
        check_step_control(self.solver, self.rtol, self.atol, self.dt0, max_steps)

    def __call__(
        self,
        y0: PyTree[Array],
        args: PyTree = None,
        *,
        probe: BackwardStats | None = None,
    ) -> tuple[PyTree[Array], SolveStats]:
        """Solves from `y0`. Never raises on a failed solve: look at `stats.success`.

        Args:
            y0: State at time 0, any pytree of floating arrays. With `per_sample`, all
                have the batch as their first axis.
            args: Handed to the field, whole, with `per_sample` too.
            probe: As in `odeint`.

        Returns:
            The state at time `t1`, shaped like `y0`, or the last state that was
            reached; and the solve's statistics, with a leading batch axis if
            `per_sample`.

        Raises:
            TypeError: for a state that is not floating.
            ValueError: where the field's output is not shaped like `y0`, or, with
                `per_sample`, the state has no batch axis.
        """
        if not self.per_sample:
            return self._solve(y0, args, probe)

        def solve_one(sample):
            batch_of_one = jax.tree.map(lambda y: y[None], sample)
            y1, stats = self._solve(batch_of_one, args, probe)
            return jax.tree.map(lambda y: y[0], y1), stats

        shapes = [jnp.shape(y) for y in jax.tree.leaves(y0)]
        if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                f"per_sample=True needs the batch as first axis of every array in y0; "
                f"got shapes {shapes}. Pass per_sample=False to solve them as one ODE."
            )
        return jax.vmap(solve_one)(y0)

    def with_solve(self: _Block, **settings: Any) -> _Block:
        """The same field under other settings; its arrays are shared, not copied.

            finer = block.with_solve(solver=diffrax.Tsit5(), rtol=1e-6, atol=1e-6)

        Args:
            **settings: Any argument of the block but the field.

        Raises:
            ValueError: for a name that is no setting, and whatever the block raises.
        """
        names = [f.name for f in dataclasses.fields(self) if f.name != "field"]
        unknown = [name for name in settings if name not in names]
        if unknown:
            raise ValueError(
                f"Unknown setting {unknown[0]!r}; choose from {', '.join(names)}."
            )
        return dataclasses.replace(self, **settings)

    def _solve(
        self, y0: PyTree[Array], args: PyTree, probe: BackwardStats | None
    ) -> tuple[PyTree[Array], SolveStats]:
        form = solve_form(self.field, y0)
        solution = odeint(
            form.field,
            form.pack(y0),
            jnp.asarray([0.0, self.t1]),
            args,
            solver=self.solver,
            adjoint=self.adjoint,
            rtol=self.rtol,
            atol=self.atol,
            dt0=self.dt0,
            max_steps=self.max_steps,
            # A check at run time is a callback to the host, and cannot raise on a TPU.
            throw=False,
            unroll=self.unroll,
            probe=probe,
        )
        y1 = jax.tree.map(lambda ys: ys[-1], solution.ys)
        return form.unpack(y1), solution.stats
