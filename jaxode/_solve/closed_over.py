"""A function with other arrays in its closure.

Inside `jax.shard_map` a field may close over arrays that are the same on all devices.
JAX casts them where they meet others, within the field: its trace then only fits arrays
of just these types, and their cotangents are added up over the devices in every call.
So they are replaced by arrays that were cast before the solve.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer


def with_closed_over(function: Any, replace: Callable[[Tracer], Any]) -> Any:
    """`function`, with `replace(x)` for every traced array it holds or closes over.

    Looks into closures, defaults, partials, bound methods and pytrees of all these; not
    into objects of other kinds.
    """
    return _replaced(function, replace, {})


def _replaced(x: Any, replace: Callable, done: dict[int, Any]) -> Any:
    if isinstance(x, Tracer):
        return replace(x)
    if isinstance(x, types.FunctionType):
        return _function(x, replace, done)
    if isinstance(x, types.MethodType):
        own = _replaced(x.__self__, replace, done)
        return x if own is x.__self__ else types.MethodType(x.__func__, own)
    if isinstance(x, functools.partial):
        again = lambda part: _replaced(part, replace, done)
        parts = [again(x.func), tuple(map(again, x.args)), again(x.keywords)]
        return functools.partial(parts[0], *parts[1], **parts[2])
    leaves, structure = jax.tree.flatten(x)
    if len(leaves) == 1 and leaves[0] is x:
        return x
    new = [_replaced(leaf, replace, done) for leaf in leaves]
    same = all(a is b for a, b in zip(new, leaves, strict=True))
    return x if same else jax.tree.unflatten(structure, new)


def _function(function: Any, replace: Callable, done: dict[int, Any]) -> Any:
    # A function may close over itself.
    if id(function) in done:
        return done[id(function)]
    cells = [types.CellType() for _ in function.__closure__ or ()]
    new = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells) if function.__closure__ else None,
    )
    done[id(function)] = new
    changed = False
    for cell, old in zip(cells, function.__closure__ or (), strict=True):
        try:
            content = old.cell_contents
        except ValueError:
            continue  # not assigned yet
        cell.cell_contents = _replaced(content, replace, done)
        changed |= cell.cell_contents is not content
    for name in ("__defaults__", "__kwdefaults__"):
        old = getattr(function, name)
        found = old if old is None else _replaced(old, replace, done)
        setattr(new, name, found)
        changed |= found is not old
    if not changed:
        done[id(function)] = function
        return function
    new.__dict__.update(function.__dict__)
    return new
