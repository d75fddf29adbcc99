"""What decides on the steps of a solve."""

from typing import Any

import diffrax
from jaxtyping import Array, Float, PyTree

from .._steps.controller import InitialStep
from .._steps.equal_steps import EqualSteps
from .._steps.sides import jump_times
from .settings import SolveSettings


def controller_for(
    settings: SolveSettings, ts: Float[Array, " time"], f0: PyTree = None
) -> InitialStep | EqualSteps:
    """The controller of a solve, in time as it is; `wrap` turns it round.

    Args:
        settings: As `SolveSettings.for_times` returns them.
        ts: The times of the solve.
        f0: The field at the start, where the caller has it.
    """
    if settings.controller is None:
        assert settings.dt0 is not None
        return EqualSteps(settings.dt0, ts, settings.jumps)
    controller: Any = settings.controller
    if settings.jumps is not None:
        controller = diffrax.ClipStepSizeController(controller, jump_ts=settings.jumps)
    return InitialStep(controller, settings.dt0, f0)


def can_jump(settings: SolveSettings) -> bool:
    """Whether a step may be told to start at a jump."""
    return settings.jumps is not None or any(
        True for _ in jump_times(settings.controller)
    )
