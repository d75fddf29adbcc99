"""A solve whose gradient is written by hand: what `discrete` and `backsolve` share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float, PyTree

from .._steps.lanes import axes_of, typed_as, varying_like
from .._steps.pooled import PartNorm
from .integrate import Integral
from .settings import SolveSettings
from .stats import SolveCounts


FORWARD_MESSAGE = (
    "A derivative in forward mode (jax.jvp, jax.jacfwd, jax.linearize) was asked of a "
    "solve whose gradient is taken in reverse; pass adjoint='direct', or take it by "
    "jax.grad, jax.vjp or jax.jacrev."
)


class Problem(NamedTuple):
    """What a solve is given. All but the last two may be differentiated.

    Attributes:
        y0: State at the first time.
        field: Vector field.
        args: Passed to the field.
        captured: Arrays that the field closes over. They are leaves of `field` too, and
            here to be told apart.
        probe: Receives the counts of the way back as its cotangent.
        ts: The times.
        settings: As `SolveSettings.for_times` returns them.
        summed: Whether each array of field and `args` is the same on all devices that
            pool their error norm, so that its cotangent is the sum of theirs.
    """

    y0: PyTree[Array]
    field: Any
    args: PyTree
    captured: PyTree[Array]
    probe: SolveCounts
    ts: Float[Array, " time"]
    settings: SolveSettings
    summed: PyTree = None


def with_own_gradient(
    problem: Problem,
    solve: Callable[[Problem, bool], tuple[Integral, PyTree]],
    pull_back: Callable[[Problem, Problem, PyTree, PyTree], dict[str, PyTree]],
) -> Integral:
    """Solves, and has `pull_back` compute the gradient.

    Args:
        problem: The problem.
        solve: Takes the problem, and whether it is differentiated. Returns the outcome,
            and what `pull_back` needs of it.
        pull_back: Takes the problem, flags that say what of it is differentiated, what
            `solve` returned for it, and the cotangents of `ys`. Returns the cotangents
            of the problem by their names; those that are left out are zero.
    """
    axes, norm = problem.settings.pooled_axes, problem.settings.norm
    all_summed = isinstance(norm, PartNorm) and norm.pool.shared
    is_summed = lambda x: all_summed or not axes_of(x) & set(axes)
    of_field = (problem.field, problem.args)
    problem = problem._replace(summed=jax.tree.map(is_summed, of_field))
    arrays, static = eqx.partition(problem, eqx.is_array)
    # A Python number that is differentiated has no shape of its own (jax 2531).
    arrays = jax.tree.map(jnp.asarray, arrays)
    arrays = _varying(arrays, axes)

    @jax.custom_vjp
    def outcome(arrays):
        return call_compiled(solve, eqx.combine(arrays, static), False)[0]

    def forward(primals):
        is_primal = lambda x: isinstance(x, CustomVJPPrimal)
        arrays = jax.tree.map(
            lambda p: jnp.asarray(p.value), primals, is_leaf=is_primal
        )
        leaves = jax.tree.leaves(primals, is_leaf=is_primal)
        flags = _Static(tuple(leaf.perturbed for leaf in leaves))
        out, kept = call_compiled(solve, eqx.combine(arrays, static), True)
        return out, (arrays, flags, kept)

    def backward(residuals, out_bar):
        arrays, flags, kept = residuals
        is_zero = lambda x: isinstance(x, SymbolicZero)
        ys_bar = jax.tree.map(
            lambda bar: jnp.zeros(bar.shape, bar.dtype) if is_zero(bar) else bar,
            out_bar.ys,
            is_leaf=is_zero,
        )
        perturbed = jax.tree.unflatten(jax.tree.structure(arrays), flags.value)
        problem = eqx.combine(arrays, static)
        bars = call_compiled(pull_back, problem, perturbed, kept, ys_bar)
        bars = {
            name: typed_as(bar, getattr(arrays, name)) for name, bar in bars.items()
        }
        nothing = jax.tree.map(lambda _: None, arrays)
        return (nothing._replace(**bars),)

    outcome.defvjp(forward, backward, symbolic_zeros=True)
    try:
        return outcome(arrays)
    except TypeError as error:
        # JAX names its own function only (diffrax 336, 612).
        if "forward-mode autodiff" not in str(error):
            raise
        raise TypeError(FORWARD_MESSAGE) from error


def _varying(arrays: Problem, pooled: tuple[str, ...]) -> Problem:
    """Where one array varies over a mesh all do, so that JAX adds up the cotangents.

    What decides on the steps does not vary over axes whose devices step together, and
    so neither does the probe, which receives the counts of these.
    """
    everywhere = varying_like(arrays, arrays)
    decides = varying_like(arrays, arrays, but=pooled)
    return everywhere._replace(
        probe=decides.probe, ts=decides.ts, settings=decides.settings
    )


def call_compiled(function: Callable, *inputs: Any) -> Any:
    """Calls it, compiled where nothing around it is being compiled.

    The body of a loop that is run eagerly is a new function each time, so each call
    would compile it anew.
    """
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs))
    return function(*inputs) if traced else _compiled(function, inputs)


@eqx.filter_jit
def _compiled(function: Callable, inputs: tuple) -> Any:
    return function(*inputs)


class _Static(eqx.Module):
    """A value that is no array, on its way from forward to backward."""

    value: Any = eqx.field(static=True)


def parameters_of(problem: Problem, perturbed: Problem) -> tuple[PyTree, PyTree]:
    """Field and `args` in two parts: the arrays that are differentiated, and the rest.

    `equinox.combine` of the two gives `(field, args)`.
    """
    of_field = lambda p: (p.field, p.args)
    arrays, static = eqx.partition(of_field(problem), eqx.is_array)
    is_wanted = lambda x, flag: flag and eqx.is_inexact_array(x)
    wanted = jax.tree.map(is_wanted, arrays, of_field(perturbed))
    parameters, others = eqx.partition(arrays, wanted)
    return parameters, eqx.combine(others, static)
