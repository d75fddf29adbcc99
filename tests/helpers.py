"""Oracles and measuring tools that several tests share."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.stages import Compiled
from jaxtyping import Array, PyTree

from jaxode._solve import adjoints


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

    return jnp.asarray(sum(leaf(y) for y in jax.tree.leaves(ys)))


# Compiler options that halve the time to compile; a test runs for milliseconds only.
# conftest.py sets them for every program of the process that runs the tests.
QUICK_OPTIONS: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
# XLA ends a process that sets a flag it does not know; later versions have no such one.
if jax.__version_info__ < (0, 11):
    QUICK_OPTIONS["xla_cpu_use_fusion_emitters"] = False
QUICK_FLAGS = " ".join(f"--{k}={str(v).lower()}" for k, v in QUICK_OPTIONS.items())

# What XLA does by itself, for a test of the compiled program.
_DEFAULTS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_parallel_codegen_split_count": 32,
    "xla_cpu_use_fusion_emitters": True,
}

needs_shard_map = pytest.mark.skipif(
    jax.__version_info__ < (0, 7, 2),
    reason="jnp.polyval of JAX 0.6 has a loop that jax.shard_map does not trace",
)

counts_every_call = pytest.mark.skipif(
    jax.__version_info__ < (0, 7),
    reason="JAX 0.6 leaves out some of the callbacks that count calls here",
)


def compiled_for_users(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """The program that a user's process would make of a jitted function."""
    options = {name: _DEFAULTS[name] for name in QUICK_OPTIONS}
    return jax.jit(function).lower(*arguments).compile(options)


quick_jit = jax.jit

# Every adjoint that has a name. One that the library gains is tested like the others.
ADJOINTS = tuple(adjoints.ADJOINTS)


def some_slow(values: Iterable[Any], *usual: Any) -> list[Any]:
    """Values for `pytest.mark.parametrize`, of which all but the `usual` are slow.

    Where several values take the same way through the library, one of them tells in
    the tests that everyone runs, and the others complete the table.
    """
    slow = pytest.mark.slow
    return [pytest.param(v, marks=() if v in usual else slow) for v in values]


def each_adjoint(*usual: str) -> pytest.MarkDecorator:
    """Runs a test with every adjoint; all but the `usual`, where given, are slow."""
    return pytest.mark.parametrize("adjoint", some_slow(ADJOINTS, *usual or ADJOINTS))


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


@contextlib.contextmanager
def unchecked_types() -> Iterator[None]:
    """Switches off the type checks that the tests add to the library.

    Users run without them, and see the library's own message for a wrong type.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class Counts:
    """How often a field was called and differentiated, as the program ran."""

    def __init__(self):
        # Callbacks come from several threads: appending is atomic, adding is not.
        self._calls, self._vjps = [], []

    def call(self, y: PyTree) -> None:
        self._calls.append(None)

    def vjp(self, y: PyTree) -> None:
        self._vjps.append(None)

    def read(self) -> tuple[int, int]:
        """Calls and vector-Jacobian products so far; starts again from zero."""
        jax.effects_barrier()
        counts = len(self._calls), len(self._vjps)
        self.__init__()
        return counts


class Counting(eqx.Module):
    """A field that tells `counts` of each call, from inside the compiled program."""

    field: Any
    counts: Counts = eqx.field(static=True)

    def __call__(self, t, y, args):
        return _counted(self.counts, self.field, t, y, args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _counted(counts, field, t, y, args):
    # Given the state, or JAX moves the callback out of loops that do not change it.
    jax.debug.callback(counts.call, y)
    return field(t, y, args)


def _counted_fwd(counts, *inputs):
    return _counted(counts, *inputs), inputs


def _counted_bwd(counts, inputs, f_bar):
    jax.debug.callback(counts.vjp, inputs[2])
    _, vjp = jax.vjp(lambda field, *inputs: field(*inputs), *inputs)
    return vjp(f_bar)


_counted.defvjp(_counted_fwd, _counted_bwd)
