"""Which solves can pool their error norm, and giving it to their controller."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import optimistix as optx
from jaxtyping import Array, PyTree

from .._steps.lanes import axes_of
from .._steps.pooled import PartNorm, PooledNorm


_IS_PID = lambda x: isinstance(x, diffrax.PIDController)


def check_norm(norm: Any, solver: Any, controller: Any) -> None:
    """Checks that a norm can be pooled by this solver and this controller.

    Raises:
        TypeError: for a norm that is no `PooledNorm`.
        ValueError: where they do not go together.
    """
    if norm is None:
        return
    if not isinstance(norm, PooledNorm | PartNorm):
        raise TypeError(
            f'norm must be such as jaxode.PooledNorm("batch"); got {norm!r}. To '
            "measure errors otherwise pass controller=diffrax.PIDController(norm=...)."
        )
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        raise ValueError(
            f"norm pools the error of all devices, and {type(solver).__name__} solves "
            "equations in each step, which may fail on one device alone; pass an "
            "explicit solver such as diffrax.Dopri5(), or leave norm out."
        )
    if controller is None:
        return
    found = list(filter(_IS_PID, jax.tree.leaves(controller, is_leaf=_IS_PID)))
    own = [c.norm for c in found if not isinstance(c.norm, PooledNorm | PartNorm)]
    if not found or any(norm is not optx.rms_norm for norm in own):
        raise ValueError(
            "norm replaces that of a diffrax.PIDController, and the controller has "
            "none or one with a norm of its own; pass rtol and atol without a "
            "controller, or give the controller a norm that is pooled and leave out "
            "norm."
        )


def with_norm(controller: Any, norm: PartNorm | None) -> Any:
    """The controller, its errors measured by `norm` if there is one."""
    if norm is None:
        return controller
    swap = lambda c: eqx.tree_at(lambda c: c.norm, c, norm) if _IS_PID(c) else c
    return jax.tree.map(swap, controller, is_leaf=_IS_PID)


def check_pooled(axes: tuple[str, ...], ts: Array, settings: PyTree) -> None:
    """Raises `ValueError` where devices that step together differ in times or settings.

    They would wait for each other for ever.
    """
    if axes and (differing := axes_of((ts, settings)) & set(axes)):
        raise ValueError(
            f"norm pools the error over {sorted(differing)}, along which ts, a "
            "tolerance or another setting differs from device to device; pass the same "
            "ones to all (in_specs=PartitionSpec()), or leave norm out."
        )
