"""Names that JAX has changed since the oldest version that is supported.

What is for older ones goes once the oldest is at least the version in its comment.
"""

from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
from jax import lax


if hasattr(jax, "enable_x64"):  # since JAX 0.8
    enable_x64: Any = jax.enable_x64
else:
    enable_x64 = getattr(jax.experimental, "enable_x64")  # noqa: B009, for pyright


def varies_over(x: Any) -> frozenset[str]:
    """The axes of a mesh over which an array varies, in `jax.shard_map`.

    Args:
        x: The array, or what `jax.eval_shape` says of it.
    """
    kind: Any = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    of_axes = getattr(kind, "manual_axis_type", None)  # since JAX 0.10
    if of_axes is not None:
        return frozenset(of_axes.varying)
    return frozenset(getattr(kind, "vma", None) or ())


def as_varying(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The same array, varying over more axes of a mesh."""
    if hasattr(lax, "pcast"):  # since JAX 0.9
        return lax.pcast(x, axes, to="varying")
    return getattr(lax, "pvary")(x, axes)  # noqa: B009


def without_tangent(x: jax.Array) -> jax.Array:
    """The same array, with no tangent.

    `stop_gradient` leaves integers as they are. JAX 0.7 gives those that come out of a
    `custom_vjp` a tangent, and refuses to differentiate a `pure_callback` of them.
    """
    is_integer = jnp.issubdtype(x.dtype, jnp.integer)
    return x | jnp.zeros_like(x) if is_integer else lax.stop_gradient(x)
