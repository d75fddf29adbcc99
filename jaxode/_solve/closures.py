"""A look at a vector field before the solve: what it returns, what it closes over."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .._steps.lanes import axes_of, varying_over
from .closed_over import with_closed_over


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
    axes = axes_of((captured, function, t, y0, args))
    if axes:
        function = _cast_to(axes, function, t, y0, args)
        t, y0, args = varying_over((t, y0, args), axes)
        captured = [varying_over(c, axes) for c in captured]
    closed = eqx.filter_closure_convert(call, function, t, y0, args)
    return _Converted(closed, function, axes), captured, out


def _cast_to(axes: frozenset[str], function: Any, *inputs: Any) -> Any:
    """The function, all that it holds or closes over varying over these axes.

    Raises:
        ValueError: where it holds an array in a place that cannot be reached.
    """
    function = with_closed_over(function, lambda x: varying_over(x, axes))
    call = functools.partial(_call)
    jaxpr, *_ = eqx.filter_make_jaxpr(call)(function, *varying_over(inputs, axes))
    hidden = [c for c in jaxpr.consts if isinstance(c, Tracer) and axes - axes_of(c)]
    if hidden:
        shown = ", ".join(shape_of(c) for c in hidden)
        raise ValueError(
            f"Inside jax.shard_map the field uses an array ({shown}) that it holds in "
            "an object or a jitted function, out of reach. Pass the array through "
            "`args`, or make the field an equinox.Module that holds it."
        )
    return function


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
    """A field whose captured arrays are leaves.

    Attributes:
        closed: The field, as it was traced.
        field: Its own arrays.
        axes: Those of a mesh over which everything varied when it was traced.
    """

    closed: Any
    field: Any
    axes: frozenset[str] = eqx.field(static=True)

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        inputs = varying_over((self.field, t, y, args), self.axes)
        return self.closed(*inputs)
