"""A look at a vector field before the solve: what it returns, what it closes over."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PyTree


VectorField: TypeAlias = Callable[[Any, PyTree, PyTree], PyTree]
"""dy/dt = field(t, y, args); y is a pytree, and the result is shaped like it."""


def shape_of(tree: PyTree) -> str:
    """Structure, shapes and dtypes in one line, for messages."""
    return eqx.tree_pformat(tree, width=1_000, struct_as_array=True)


def captured_arrays(field: Any, t: Array, y0: PyTree, args: PyTree) -> tuple[Any, Any]:
    """Traces the field once: checks what it returns and finds what it closes over.

    Returns:
        The field, rewritten to hold the traced arrays it captured as leaves where it
        captured any; and these arrays.

    Raises:
        TypeError: where the field is not callable.
        ValueError: where its output does not match `y0`.
    """
    if not callable(field):
        raise TypeError(f"field must be callable as field(t, y, args); got {field!r}.")

    field, captured, out = without_closure(field, t, y0, args)
    check_output(out, y0)
    return field, captured


def without_closure(
    function: Any, t: Array, y0: PyTree, args: PyTree
) -> tuple[Any, list[Any], PyTree]:
    """A function of a field's arguments, with what it closes over as leaves.

    Returns:
        The function, rewritten to hold the traced arrays it captured as leaves where it
        captured any; these arrays; and shapes and dtypes of what it returns.
    """
    # A partial, because Equinox passes over functions that have no closure themselves,
    # and the arrays looked for are those that `function` captured.
    call = functools.partial(_call)
    jaxpr, out_dynamic, out_static = eqx.filter_make_jaxpr(call)(function, t, y0, args)
    out = eqx.combine(out_dynamic, out_static)
    captured = [c for c in jaxpr.consts if isinstance(c, Tracer)]
    if not captured:
        return function, [], out
    closed = eqx.filter_closure_convert(call, function, t, y0, args)
    return _Converted(closed, function), captured, out


def check_output(out: PyTree, y0: PyTree[Array]) -> None:
    """Raises `ValueError` where a field's output is not shaped like the state."""
    out = jax.tree.map(lambda o: jax.eval_shape(jnp.asarray, o), out)
    expected = jax.eval_shape(lambda: y0)
    same = jax.tree.structure(out) == jax.tree.structure(expected) and all(
        o.shape == e.shape and o.dtype == e.dtype
        for o, e in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True)
    )
    if not same:
        raise ValueError(
            f"field(t, y, args) returned {shape_of(out)}, but y0 is "
            f"{shape_of(expected)}; dy/dt must have the structure, shapes and dtypes "
            "of y."
        )


def _call(field: Any, t: Any, y: PyTree, args: PyTree) -> PyTree:
    return field(t, y, args)


class _Converted(eqx.Module):
    """A field whose captured arrays are leaves."""

    closed: Any
    field: Any

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return self.closed(self.field, t, y, args)
