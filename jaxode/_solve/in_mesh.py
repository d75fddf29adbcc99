"""`odeint` under an adjoint of Diffrax's inside `jax.shard_map`."""

from typing import Any

import diffrax
import equinox as eqx
from jaxtyping import Array, Float, PyTree

from .._steps.lanes import varying_like
from .integrate import Integral
from .loop import run
from .probes import Counted
from .settings import SolveSettings
from .setup import prepare


def integrate_in_mesh(
    field: Any,
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
) -> Integral:
    """`integrate` under `"direct"` and `"checkpoint"`, by the loop of our own.

    Diffrax's carries constants that do not vary over the mesh into values that do,
    which `jax.shard_map` refuses. Ours is differentiated by JAX, with steps computed
    again in sixteens, under both: the gradient of the steps taken, to rounding.

    Raises:
        ValueError: for another adjoint of Diffrax's, or without a bound on the steps.
    """
    known = diffrax.DirectAdjoint | diffrax.RecursiveCheckpointAdjoint
    name = type(settings.adjoint).__name__
    if not isinstance(settings.adjoint, known):
        raise ValueError(
            f"diffrax.{name} cannot be traced inside jax.shard_map (diffrax 735, 765); "
            "pass one of adjoint='discrete', 'backsolve', 'direct' and 'checkpoint'."
        )
    if settings.max_steps is None:
        raise ValueError(
            f"Inside jax.shard_map diffrax.{name} runs a loop of max_steps turns, and "
            "max_steps is None; pass a bound such as max_steps=64, or "
            "adjoint='discrete'."
        )
    # Cotangents are added up over the devices once, where this casts.
    given = field, y0, args
    field, y0, args = varying_like(given, given, ts, settings)
    pooled = settings.pooled_axes
    ts, settings = varying_like((ts, settings), given, but=pooled)
    if isinstance(field, Counted):
        # Devices that step together count the same calls.
        probe = varying_like(given[0].probe, given, but=pooled)
        field = eqx.tree_at(lambda counted: counted.probe, field, probe)
    setup = prepare(field, args, ts, settings)
    return run(setup._replace(differentiable=True), y0)[0]
