"""What `odeint_event` accepts for events, and their values along a trajectory."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .closures import shape_of, without_closure


Event: TypeAlias = Callable[[Any, PyTree, PyTree], Any]
"""`event(t, y, args)` returns a floating number, whose change of sign is the event."""

Values: TypeAlias = Callable[[Any, PyTree], Float[Array, " event"]]
"""The values of all events at a time and a state."""


def check_events(event: Any, t: Array, y0: PyTree, args: PyTree) -> tuple[Event, ...]:
    """The events, each rewritten to hold what it closes over as leaves.

    Raises:
        TypeError: where one is not callable or does not return floating numbers.
        ValueError: where there is none, or one returns anything but one number.
    """
    is_one = callable(event)
    if not is_one and not isinstance(event, list | tuple):
        raise TypeError(
            f"event must be callable as event(t, y, args); got {event!r}. Pass a "
            "function such as lambda t, y, args: y[0], or a list of functions."
        )
    events = (event,) if is_one else tuple(event)
    if not events:
        raise ValueError("event is an empty list; pass at least one function.")
    names = ["event"] if is_one else [f"event[{i}]" for i in range(len(events))]
    return tuple(
        _checked(e, name, t, y0, args) for e, name in zip(events, names, strict=True)
    )


def _checked(event: Any, name: str, t: Array, y0: PyTree, args: PyTree) -> Event:
    if not callable(event):
        raise TypeError(
            f"{name} must be callable as {name}(t, y, args); got {event!r}."
        )
    event, _, out = without_closure(event, t, y0, args)
    shown = shape_of(out)
    leaves = jax.tree.leaves(out)
    is_leaf = jax.tree.structure(out) == jax.tree.structure(0)
    if not is_leaf or (not hasattr(leaves[0], "shape") and not eqx.is_array_like(out)):
        raise ValueError(
            f"{name}(t, y, args) returned {shown}; an event is one number that crosses "
            "zero. For several events pass a list of functions."
        )
    spec = jax.eval_shape(jnp.asarray, out)
    if spec.shape != ():
        raise ValueError(
            f"{name}(t, y, args) returned {shown}, and an event is one number that "
            "crosses zero; return a component such as y[0] or a sum, or, for several "
            "events, pass a list of functions."
        )
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        raise TypeError(
            f"{name}(t, y, args) returned {shown}; an event is located where a "
            "floating number crosses zero, so return one such as y[0] - 1.0 in place "
            "of an integer or a condition such as y[0] > 1.0."
        )
    return event


def check_directions(direction: Any, num_events: int) -> tuple[int, ...]:
    """For each event 1, -1, or 0 for both directions.

    Raises:
        ValueError: for anything but `None`, 1 or -1, or a list of these.
    """
    is_list = isinstance(direction, list | tuple)
    found = tuple(direction) if is_list else (direction,) * num_events
    allowed = all(d is None or (eqx.is_array_like(d) and d in (1, -1)) for d in found)
    if not allowed or len(found) != num_events:
        each = "a list with one of these for each event"
        raise ValueError(
            f"direction must be None (both), 1 (upwards) or -1 (downwards), or {each}; "
            f"got {direction!r} for {num_events} event{'s' * (num_events != 1)}."
        )
    return tuple(0 if d is None else int(d) for d in found)


def values_of(
    events: Sequence[Event], args: PyTree, t: Array, y: PyTree
) -> Float[Array, " event"]:
    """The values of all events, in the dtype of the time."""
    values = [jnp.asarray(event(t, y, args)) for event in events]
    return jnp.stack([value.astype(t.dtype) for value in values])


def total_derivatives(
    values: Values, t: Array, y: PyTree, f: PyTree
) -> tuple[Float[Array, " event"], Float[Array, " event"]]:
    """The values of all events, and d/dt of each along dy/dt = `f`."""
    return jax.jvp(values, (t, y), (jnp.ones_like(t), f))
