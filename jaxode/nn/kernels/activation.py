"""Activations that the fast forms know, each with its derivative written out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array


def _relu_slope(x: Array) -> Array:
    return (x > 0).astype(x.dtype)


def _tanh_slope(x: Array) -> Array:
    return 1 - jnp.square(jnp.tanh(x))


# name -> (activation, derivative)
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (jax.nn.relu, _relu_slope),
    "softplus": (jax.nn.softplus, jax.nn.sigmoid),
    "tanh": (jnp.tanh, _tanh_slope),
}


def activation_pair(
    name: str,
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Looks an activation up.

    Args:
        name: One of the keys of `ACTIVATIONS`.

    Returns:
        The function and its derivative.

    Raises:
        ValueError: if there is no activation of that name.
    """
    if name not in ACTIVATIONS:
        known = ", ".join(repr(key) for key in ACTIVATIONS)
        raise ValueError(f"Unknown activation {name!r}; choose one of {known}.")
    return ACTIVATIONS[name]
