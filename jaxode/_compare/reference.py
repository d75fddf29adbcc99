"""The gradient that others are held against, and by how much they differ."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._jax_versions import enable_x64
from .failure import failure_of
from .measure import gradient_of, Program
from .measurement import LeafError, Reference


Leaves = dict[str, np.ndarray]
"""A gradient on the host: each array by its path in the parameters."""


def named_leaves(grads: PyTree) -> Leaves:
    """The arrays of a gradient by their paths, in double precision."""
    found = jax.tree_util.tree_leaves_with_path(grads)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf, _wide(leaf.dtype))
        for path, leaf in found
    }


def reference_gradient(
    loss_fn: Callable,
    arguments: tuple[Any, ...],
    solver: diffrax.AbstractSolver,
    rtol: float,
    max_steps: int,
) -> tuple[Reference, Leaves | None]:
    """Differentiates the steps of a solve in double precision at a fine tolerance.

    By `checkpoint`, which gives the numbers of `direct` to rounding and does not store
    every stage of thousands of steps. Computed twice: at ten times the tolerance too,
    which tells how much of it to believe.
    """
    with enable_x64(True):
        arguments = jax.tree.map(_in_double, arguments)

        def at(tolerance, *arguments):
            replaced = dict(
                adjoint="checkpoint",
                solver=solver,
                rtol=tolerance,
                atol=tolerance,
                dt0=None,
                controller=None,
                max_steps=max_steps,
                throw=False,
                # One stage to compile instead of all.
                unroll=False,
            )
            return gradient_of(loss_fn, replaced)(*arguments)

        name = type(solver).__name__
        try:
            coarser, tolerance = jnp.asarray([10 * rtol, rtol], jnp.float64)
            program = Program(at, coarser, *arguments)
            coarse, fine = program(), program.on(tolerance, *arguments)
            failure = failure_of(fine, max_steps)
        except Exception as error:  # a comparison without reference is still one
            return Reference(None, None, rtol, name, failure=failure_of(error)), None
        steps = int(fine.forward.num_steps)
        if failure is not None:
            return Reference(None, None, rtol, name, steps, failure), None
        leaves = named_leaves(fine.grads)
        error = compare(named_leaves(coarse.grads), leaves).error
        return Reference(float(fine.loss), error, rtol, name, steps), leaves


def compare(actual: Leaves, expected: Leaves) -> LeafError:
    """The error and the angle of a whole gradient."""
    join = lambda leaves: np.concatenate([leaves[name].ravel() for name in expected])
    return _compare(join(actual), join(expected))


def compare_leaves(actual: Leaves, expected: Leaves) -> dict[str, LeafError]:
    """The error and the angle of each array, by its path."""
    return {name: _compare(actual[name], expected[name]) for name in expected}


def _compare(actual: np.ndarray, expected: np.ndarray) -> LeafError:
    size = np.linalg.norm(expected)
    if size == 0:
        return LeafError(None, None)
    error = float(np.linalg.norm(actual - expected) / size)
    own = np.linalg.norm(actual)
    if own == 0:
        return LeafError(error, None)
    inner = np.real(np.vdot(actual.ravel() / own, expected.ravel() / size))
    return LeafError(error, float(inner))


def _wide(dtype: Any) -> Any:
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return np.complex128 if is_complex else np.float64


def _in_double(leaf: Any) -> Any:
    return leaf.astype(_wide(leaf.dtype)) if eqx.is_inexact_array(leaf) else leaf
