"""The settings of a solve: one object, from `odeint` down to the loop over its steps.

A new setting is named in three places: the signature of `odeint`, which documents it, a
field of `SolveSettings`, and wherever it is used.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import diffrax
import equinox as eqx
import jax
import optimistix as optx
from jaxtyping import Array, ArrayLike, Float

from .._steps.pooled import Augmented, PartNorm, PooledNorm
from .._steps.runge_kutta import unrolled
from .adjoints import Adjoint, Backsolve, resolve_adjoint
from .arguments import (
    check_initial_step,
    check_kinds,
    check_step_control,
)
from .jumps import check_jumps, check_stages, jumps_for, void_if_unknown
from .limits import checked_tolerance, void_unless_usable
from .pooling import check_norm, with_norm


class SolveSettings(eqx.Module):
    """How an ODE is solved: everything but the problem itself.

    Its fields are the keyword arguments of `odeint`, which says what each means, with
    the same defaults. Settings without arrays are hashable, so that they can be part of
    a compiled program.

        settings = jaxode.SolveSettings(solver=diffrax.Tsit5(), rtol=1e-6, atol=1e-6)

    Attributes:
        solver: As in `odeint`, and so are the rest.
        adjoint: How gradients are taken.
        rtol: Relative tolerance, or `None` for fixed steps.
        atol: Absolute tolerance, in units of the state.
        dt0: First step, or the bound on fixed steps.
        max_steps: Steps tried at most.
        throw: Whether a failed solve raises.
        controller: Adaptive controller, in place of one made from the tolerances.
        unroll: Whether explicit Runge-Kutta solvers run with their stages written out.
        jumps: Times at which the field jumps.
        norm: Over what the error norm is pooled, or `None`.

    Examples:
        >>> import diffrax
        >>> import jaxode
        >>> settings = jaxode.SolveSettings(solver=diffrax.Tsit5(), rtol=1e-6)
        >>> settings.adjoint, settings.rtol
        ('discrete', 1e-06)
    """

    solver: diffrax.AbstractSolver = diffrax.Dopri5()
    adjoint: Adjoint = "discrete"
    rtol: ArrayLike | None = 1e-3
    atol: ArrayLike | None = 1e-6
    dt0: ArrayLike | None = None
    max_steps: int | None = eqx.field(static=True, default=4096)
    throw: bool = eqx.field(static=True, default=True)
    controller: diffrax.AbstractAdaptiveStepSizeController | None = None
    unroll: bool = eqx.field(static=True, default=True)
    jumps: Any = None
    norm: PooledNorm | PartNorm | None = None

    def __check_init__(self):
        resolve_adjoint(self.adjoint)  # for its errors: a name reads better in a repr
        check_kinds(self.solver, self.controller)
        source = self if self.controller is None else self.controller
        check_step_control(
            self.solver, source.rtol, source.atol, self.dt0, self.max_steps
        )
        check_jumps(self.jumps)
        check_norm(self.norm, self.solver, self.controller)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> "SolveSettings":
        """Those of a function's arguments that are settings, all of which it has."""
        return cls(**{name: arguments[name] for name in cls.names()})

    def to_dict(self) -> dict[str, Any]:
        """Name to value, as keyword arguments of `odeint`."""
        return {name: getattr(self, name) for name in self.names()}

    def replace(self, **changes: Any) -> "SolveSettings":
        """The same with other values in some fields.

        Raises:
            ValueError: for a name that is no setting, and whatever the checks raise.
        """
        check_names(changes, self.names())
        return dataclasses.replace(self, **changes)

    def times_of(self, ts: Float[Array, " time"]) -> Float[Array, " time"]:
        """The times of a solve; NaN, so that it fails, where traced ones make no sense.

        Where `throw` is set, `for_times` raises instead for all but the jumps.
        """
        source = self if self.controller is None else self.controller
        rtol, atol = (getattr(source, name, None) for name in ("rtol", "atol"))
        if not self.throw:
            ts = void_unless_usable(ts, rtol, atol, self.dt0)
        jumps = None if self.jumps is None else jumps_for(self.jumps, ts, throw=False)
        return void_if_unknown(ts, jumps)

    def for_times(self, ts: Float[Array, " time"]) -> "SolveSettings":
        """The same as the loops take them, for a solve at the times `ts`.

        The adjoint is an object, the solver written out if it is to be; there is a
        controller unless steps are fixed; and `dt0` is positive in either direction.
        """
        controller = self.controller
        if controller is None and self.rtol is not None:
            rtol, atol = (
                checked_tolerance(name, getattr(self, name), ts.dtype, self.throw)
                for name in ("rtol", "atol")
            )
            controller = diffrax.PIDController(rtol=rtol, atol=atol)
        norm = self.norm
        if isinstance(norm, PooledNorm):
            norm = PartNorm(norm)
        dt0 = self.dt0
        if dt0 is not None:
            # An integer may be beyond an int32.
            dt0 = float(dt0) if type(dt0) is int else jax.lax.stop_gradient(dt0)
            dt0 = check_initial_step(dt0, ts, self.throw)
        jumps = jumps_for(self.jumps, ts, self.throw)
        if jumps is not None:
            check_stages(self.solver)
        return dataclasses.replace(
            self,
            solver=unrolled(self.solver) if self.unroll else self.solver,
            adjoint=resolve_adjoint(self.adjoint),
            controller=with_norm(controller, norm),
            dt0=dt0,
            jumps=jumps,
            norm=norm,
        )

    @property
    def pooled_axes(self) -> tuple[str, ...]:
        """The axes of a mesh whose devices decide on every step together."""
        if self.norm is None or self.controller is None:
            return ()
        pool = self.norm.pool if isinstance(self.norm, PartNorm) else self.norm
        return pool.axes


def check_names(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raises `ValueError` for the first name that is none of the `known` ones."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"Unknown setting {unknown[0]!r}; choose from {', '.join(known)}."
        )


def backward_settings(
    backsolve: Backsolve, forward: SolveSettings, summed: tuple[bool, ...] = ()
) -> SolveSettings:
    """Settings of the backward solve: the forward ones, with what `backsolve` changes.

    Args:
        backsolve: What the caller wants to be different.
        forward: As `SolveSettings.for_times` returns them.
        summed: See `PartNorm`.

    Raises:
        ValueError: where these do not go together.
    """
    solver = forward.solver
    if backsolve.solver is not None:
        solver = unrolled(backsolve.solver) if forward.unroll else backsolve.solver
    # The bound on fixed steps holds backwards too; an adaptive solve's first step not.
    dt0 = forward.dt0 if forward.controller is None else None
    dt0 = backsolve.dt0 if backsolve.dt0 is not None else dt0
    check_norm(forward.norm, solver, backsolve.controller)
    controller = backsolve.controller or forward.controller
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        if backsolve.controller is not None or dt0 is None:
            raise ValueError(
                f"Backsolve got {type(solver).__name__}, which has no error estimate "
                "to control its steps by; pass dt0=... and no controller for equal "
                "steps, or a solver such as diffrax.Dopri5()."
            )
        controller = None
    controller, norm = _with_tolerances(controller, backsolve), forward.norm
    if isinstance(norm, PartNorm):
        norm = dataclasses.replace(norm, summed=summed, seminorm=backsolve.seminorm)
        controller = with_norm(controller, norm)
    return dataclasses.replace(
        forward,
        solver=solver,
        # The tolerances are the controller's; without one, steps are fixed.
        rtol=None if controller is None else forward.rtol,
        controller=controller,
        norm=norm,
        dt0=dt0,
        max_steps=backsolve.max_steps or forward.max_steps,
    )


def _with_tolerances(
    controller: diffrax.AbstractAdaptiveStepSizeController | None, backsolve: Backsolve
) -> diffrax.AbstractAdaptiveStepSizeController | None:
    """`controller` with the tolerances and the norm that `backsolve` asks for."""
    given = {name: getattr(backsolve, name) for name in ("rtol", "atol")}
    given = {name: value for name, value in given.items() if value is not None}
    if backsolve.seminorm:
        given["norm"] = _seminorm
    if given and not isinstance(controller, diffrax.PIDController):
        raise ValueError(
            "Backsolve got rtol, atol or seminorm for steps that no "
            "diffrax.PIDController chooses; pass an adaptive solver and "
            "Backsolve(controller=diffrax.PIDController(rtol=..., atol=...))."
        )
    for name, value in given.items():
        controller = eqx.tree_at(lambda c, n=name: getattr(c, n), controller, value)
    return controller


def _seminorm(augmented: Augmented) -> Float[Array, ""]:
    return optx.rms_norm((augmented.y, augmented.a))
