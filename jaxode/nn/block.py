"""The ODE block: a layer whose output is the solution of an ODE."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._solve.closures import VectorField
from .._solve.odeint import odeint, Solution
from .._solve.settings import check_names, SolveSettings
from .._steps.pooled import PartNorm, PooledNorm
from .by_sample import check_rows, split_by_sample
from .solve_form import solve_form


_Block = TypeVar("_Block", bound="ODEBlock")
_NAMES = ("t1", "learn_t1", "per_sample", *SolveSettings.names())


class ODEBlock(eqx.Module):
    """y1 = y(t1), where dy/dt = field(t, y, args) and y(0) = y0.

    By default the whole batch is ONE ODE: one sequence of steps serves every sample, as
    in torchdiffeq, so what comes out for a sample depends, within tolerance, on the
    others in its batch. With `per_sample` each sample has steps of its own and the
    field is called with a batch of one; the loop runs until the slowest is done.

    All settings are static, that is, part of the compiled program, and the block's only
    arrays are the field's and an end time that is learned: a trained block takes other
    settings by `with_solve`.

    Attributes:
        field: Vector field: a `ConvField`, or any module or function on any pytree. Its
            class may have a method `solve_form` (see `jaxode.nn.ConvField.solve_form`).
        t1: End of the integration, which starts at time 0. May be negative. With
            `learn_t1`, where `end_time` starts.
        end_time: The end that is learned; `None` where it is not.
        per_sample: Whether each sample is an ODE of its own.
        settings: How it is solved.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> block = jaxode.nn.ODEBlock(lambda t, y, args: -y, t1=1.0)
        >>> block(jnp.ones((3, 2))).shape
        (3, 2)
    """

    field: VectorField
    end_time: Float[Array, ""] | None
    t1: float = eqx.field(static=True)
    per_sample: bool = eqx.field(static=True)
    settings: SolveSettings = eqx.field(static=True)

    def __init__(
        self,
        field: VectorField,
        *,
        t1: float = 1.0,
        learn_t1: bool = False,
        per_sample: bool = False,
        **settings: Any,
    ):
        """Checks the settings.

        Args:
            field: See the class.
            t1: See the class.
            learn_t1: Whether the end time is an array of the block, `end_time`, and so
                trained with the field's.
            per_sample: See the class.
            **settings: Keyword arguments of `jaxode.odeint`, with its defaults but for
                `throw=False`: a check at run time is a callback to the host, and cannot
                raise on a TPU. Numbers must be Python's or concrete arrays.

        Raises:
            TypeError: for a solver or an adjoint of the wrong kind.
            ValueError: for a name that is no setting, and for settings that are out of
                range or contradict each other.
        """
        check_names(settings, _NAMES)
        for name in ("rtol", "atol", "dt0"):
            if settings.get(name) is not None:
                settings[name] = float(settings[name])
        if settings.get("jumps") is not None:
            jumps = np.atleast_1d(settings["jumps"])
            if np.issubdtype(jumps.dtype, np.floating) and jumps.ndim == 1:
                settings["jumps"] = tuple(jumps.tolist())
        self.field = field
        self.t1 = float(t1)
        self.per_sample = per_sample
        self.settings = SolveSettings(throw=False).replace(**settings)
        if per_sample and self.settings.norm is not None:
            raise ValueError(
                "norm pools the error of a batch over devices, and with "
                "per_sample=True there is none of the batch; leave one of them out."
            )
        if not (abs(self.t1) < float("inf") and self.t1):
            raise ValueError(
                f"t1={t1}: the block integrates from time 0 to t1, so that must be "
                "finite and not zero; pass t1=1.0."
            )
        self.end_time = jnp.asarray(self.t1) if learn_t1 else None

    def __call__(
        self,
        y0: PyTree[Array],
        args: PyTree = None,
        *,
        args_axes: PyTree = 0,
        key: Any = None,
    ) -> PyTree[Array]:
        """The state at time `t1`, or the last state that was reached.

        Args:
            y0: As in `solve`, and so are the errors.
            args: As in `solve`.
            args_axes: As in `solve`.
            key: Not used; `equinox.nn.Sequential` hands one to every layer.
        """
        del key
        return jax.tree.map(
            lambda ys: ys[-1], self.solve(y0, args, args_axes=args_axes).ys
        )

    def solve(
        self,
        y0: PyTree[Array],
        args: PyTree = None,
        *,
        args_axes: PyTree = 0,
        t1: Any = None,
        cost: Callable[[Any, Any], Any] | None = None,
    ) -> Solution:
        """Solves from `y0`. A failed solve is told by `stats.success` and `result`.

        Args:
            y0: State at time 0, any pytree of floating arrays. With `per_sample`, all
                have the batch as their first axis.
            args: Handed to the field. With `per_sample` each sample gets its own row
                of every array that has axes, as a batch of one like the state: the
                field that takes a batch of inputs takes this.
            args_axes: Only for `per_sample`: `None` hands `args` out whole, and so
                does a `None` in a tree that is a prefix of `args`, to the part under
                it; 0 by sample.
            t1: An end time for this solve, in place of the block's; may be traced.
            cost: Makes a running cost from the field and the state it starts from, both
                as they are integrated (`solve_form`):
                `lambda field, y0: jaxode.nn.KineticEnergy(field)`. The solution's
                `cost` has its integral.

        Returns:
            The solution at the times 0 and `t1`; where the solve failed, the last state
            that was reached takes the second place. With `per_sample`, `stats` and
            `result` have a leading batch axis.

        Raises:
            TypeError: for a state that is not floating.
            ValueError: where the field's output is not shaped like `y0`, or, with
                `per_sample`, the state or what is handed out by sample has no batch
                axis.
        """
        if t1 is None:
            t1 = self.t1 if self.end_time is None else self.end_time
        if not self.per_sample:
            return self._solve(y0, args, t1, cost)

        by_sample, shared = split_by_sample(args, args_axes)

        def solve_one(sample):
            batch_of_one = jax.tree.map(lambda x: x[None], sample)
            y0, args = batch_of_one
            solution = self._solve(y0, eqx.combine(args, shared), t1, cost)
            ys = jax.tree.map(lambda y: y[:, 0], solution.ys)
            return ys, (solution.ts, solution.stats, solution.result, solution.cost)

        shapes = [jnp.shape(y) for y in jax.tree.leaves(y0)]
        if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                f"per_sample=True needs the batch as first axis of every array in y0; "
                f"got shapes {shapes}. Pass per_sample=False to solve them as one ODE."
            )
        check_rows(by_sample, shapes[0][0])
        solve = jax.vmap(solve_one, out_axes=(1, 0))
        ys, (ts, stats, result, costs) = solve((y0, by_sample))
        return Solution(ts=ts[0], ys=ys, stats=stats, result=result, cost=costs)

    def with_solve(self: _Block, **settings: Any) -> _Block:
        """The same field under other settings; its arrays are shared, not copied.

            finer = block.with_solve(solver=diffrax.Tsit5(), rtol=1e-6, atol=1e-6)

        Args:
            **settings: Any argument of the block but the field.

        Raises:
            ValueError: for a name that is no setting, and whatever the block raises.
        """
        check_names(settings, _NAMES)
        kept: dict[str, Any] = dict(t1=self.t1, per_sample=self.per_sample)
        kept |= self.settings.to_dict()
        if "t1" not in settings:
            kept["learn_t1"] = self.end_time is not None
        block = type(self)(self.field, **(kept | settings))
        if block.end_time is None or self.end_time is None or "t1" in settings:
            return block
        return eqx.tree_at(lambda b: b.end_time, block, self.end_time)

    def _solve(
        self, y0: PyTree[Array], args: PyTree, t1: Any, cost: Callable | None
    ) -> Solution:
        form = solve_form(self.field, y0)
        start = form.pack(y0)
        if eqx.is_array(t1):
            ts = jnp.stack([jnp.zeros_like(t1), t1])
        else:
            ts = jnp.asarray([0.0, t1])
        settings = self.settings.to_dict()
        if cost is not None:
            settings["cost"] = cost(form.field, start)
        if isinstance(settings["norm"], PooledNorm):
            # Which rows count is told by the batch axis, which packing moves.
            settings["norm"] = PartNorm(settings["norm"], form.unpack)
        solution = odeint(form.field, start, ts, args, **settings)
        # Both ends in the form that the caller knows; the start as it was given.
        y1 = form.unpack(jax.tree.map(lambda ys: ys[-1], solution.ys))
        rows = lambda start, end: jnp.stack([jnp.asarray(start, end.dtype), end])
        ys = jax.tree.map(rows, y0, y1)
        return dataclasses.replace(solution, ys=ys)
