"""Oracles and measuring tools that several tests share."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
import numpy as np


def relative_error(actual: PyTree, expected: PyTree) -> float:
    """The largest difference in any leaf, as a fraction of that leaf's largest entry.

    Raises:
        AssertionError: where the two differ in structure, shape or dtype, or the
            expected leaf is zero, in which case the comparison would say nothing.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    worst = 0.0
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, e in pairs:
        assert a.shape == e.shape and a.dtype == e.dtype
        scale = np.max(np.abs(e))
        assert scale > 0
        worst = max(worst, float(np.max(np.abs(np.asarray(a) - np.asarray(e))) / scale))
    return worst


def weighted_sum(ys: PyTree) -> Array:
    """A real loss in which every entry has a weight of its own.

    Equal weights would hide a gradient that mixes entries up, and give zero where a
    solution only rotates.
    """

    def leaf(y):
        weights = 1 + jnp.sin(jnp.arange(y.size, dtype=jnp.finfo(y.dtype).dtype))
        y = jnp.real(y) + 2 * jnp.imag(y) if jnp.iscomplexobj(y) else y
        return jnp.sum(weights * jnp.reshape(y, -1))

    return sum(leaf(y) for y in jax.tree.leaves(ys))


@functools.cache
def _quick() -> dict[str, Any]:
    """Compiler options that halve compile time, where the compiler knows them.

    A test compiles for seconds to run for milliseconds.
    """
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    }
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(jnp.zeros(()))
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def quick_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`, compiling fast rather than for speed."""
    return jax.jit(function, compiler_options=_quick())


def values_and_gradients(solve: Callable[..., PyTree]) -> Callable[..., Any]:
    """`solve(field, y0, ts, args) -> ys`, to `(ys, gradients of weighted_sum(ys))`.

    The gradients are with respect to all four arguments. Compiled.
    """

    def loss(arguments):
        ys = solve(*arguments)
        return weighted_sum(ys), ys

    def compute(*arguments):
        (_, ys), grads = jax.value_and_grad(loss, has_aux=True)(arguments)
        return ys, grads

    return quick_jit(compute)


def slope(x: Any, y: Any) -> float:
    """Exponent `p` of the power law `y ~ x**p`, by least squares."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])
