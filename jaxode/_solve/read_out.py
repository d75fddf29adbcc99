"""The state at times between two steps, and the way back from there.

A read-out is an output of the step in which it lies. The last of the times asked for,
and whatever equals it, is left for the end of the solve, where the state is known
without an interpolant.
"""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._steps.classical import RK4, RK38
from .._steps.lanes import any_lane, choose, varying_like
from .._steps.runge_kutta import Unrolled
from .bounded import bounded_while
from .setup import Setup


class Step(NamedTuple):
    """A step, as read-outs within it need it.

    Attributes:
        t0: Where it started.
        t1: Where it ended.
        y1: The state there.
        dense_info: What the solver's interpolant is made of.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    y1: PyTree[Array]
    dense_info: PyTree


def read_within(
    setup: Setup,
    step: Step,
    keep: Bool[Array, ""],
    next_read: Int[Array, ""],
    ys: PyTree[Array],
) -> tuple[Int[Array, ""], PyTree[Array]]:
    """Reads the state at the times within a step, if it is kept.

    Args:
        setup: Solver and times.
        step: The step.
        keep: Whether it is kept.
        next_read: Index of the first of the times that has not been read.
        ys: The state at `ts[1:-1]`, as far as it has been read.

    Returns:
        Both, after the step.
    """
    ts = setup.ts

    def within(carry):
        t = ts[carry[0]]
        return keep & (t <= step.t1) & (t < ts[-1])

    def body(carry):
        index, ys = carry
        inside, row = within(carry), index - 1
        value = choose(
            ts[index] == step.t1,
            step.y1,
            interpolant(setup.solver, step.t0, step.t1, step.dense_info, ts[index]),
        )
        ys = jax.tree.map(
            lambda rows, v: rows.at[row].set(jnp.where(inside, v, rows[row])), ys, value
        )
        return index + inside.astype(jnp.int32), ys

    going = lambda c: any_lane(within(c))
    if setup.differentiable:
        return bounded_while(going, body, (next_read, ys), len(ts))
    return lax.while_loop(going, body, (next_read, ys))


def pull_reads(
    setup: Setup,
    step: Step,
    active: Bool[Array, ""],
    next_read: Int[Array, ""],
    y1_bar: PyTree[Array],
    ys_bar: PyTree[Array],
) -> tuple[Int[Array, ""], PyTree[Array], PyTree]:
    """The way back from the read-outs within a step.

    Args:
        setup: Solver and times.
        step: The step.
        active: Whether there is such a step.
        next_read: Index of the first of the times that has been dealt with.
        y1_bar: Cotangent of the state at the step's end, as far as it is known.
        ys_bar: Cotangents of the state at `ts[1:]`.

    Returns:
        The index after the step's times have been dealt with; `y1_bar` with what they
        add to it; and the cotangent of `step.dense_info`.
    """
    ts = setup.ts

    def within(carry):
        return active & (carry[0] > 1) & (ts[jnp.maximum(carry[0] - 1, 0)] > step.t0)

    def body(carry):
        index, y1_bar, dense_bar = carry
        inside, before = within(carry), jnp.maximum(carry[0] - 1, 1)
        at_end = ts[before] == step.t1
        bar = jax.tree.map(lambda rows: rows[before - 1], ys_bar)
        nothing = jax.tree.map(jnp.zeros_like, bar)
        y1_bar = jax.tree.map(jnp.add, y1_bar, choose(inside & at_end, bar, nothing))
        own = _pull_interpolant(
            setup.solver, step, ts[before], choose(inside & ~at_end, bar, nothing)
        )
        dense_bar = jax.tree.map(jnp.add, dense_bar, own)
        return jnp.where(inside, before, index), y1_bar, dense_bar

    dense_bar = jax.tree.map(jnp.zeros_like, step.dense_info)
    carry = (next_read, y1_bar, varying_like(dense_bar, step.dense_info))
    return lax.while_loop(lambda c: any_lane(within(c)), body, carry)


def interpolant(
    solver: diffrax.AbstractSolver, t0: Array, t1: Array, dense_info: PyTree, t: Array
) -> PyTree[Array]:
    # Diffrax evaluates polynomials in loops, whose carry is to be of one type.
    t0, t1, t = varying_like((t0, t1, t), dense_info)
    return solver.interpolation_cls(t0=t0, t1=t1, **dense_info).evaluate(t)


def _pull_interpolant(
    solver: Any, step: Step, t: Array, bar: PyTree[Array]
) -> PyTree[Array]:
    """The cotangent of `step.dense_info`, given that of the state read at `t`."""
    if not issubclass(type(solver), Unrolled | diffrax.AbstractERK | RK4 | RK38):
        value = lambda info: interpolant(solver, step.t0, step.t1, info, t)
        return jax.vjp(value, step.dense_info)[1](bar)[0]

    # Between explicit Runge-Kutta steps the state is a sum of those at the ends and of
    # the stages, with the same weights for all its components. So the weights are the
    # derivatives of one component, and JAX's own product with them, a matrix product
    # that XLA:CPU fuses with nothing, takes seven times as long.
    number = lambda shape: jnp.zeros(shape, step.t0.dtype)
    num_stages = jax.tree.leaves(step.dense_info["k"])[0].shape[0]
    component = dict(y0=number(()), y1=number(()), k=number((num_stages,)))
    # JAX adds up, over a mesh, cotangents of what does not vary there.
    component = varying_like(component, step.t0, step.t1, t)
    value = lambda info: interpolant(solver, step.t0, step.t1, info, t)
    weights = jax.grad(value)(component)

    def times(weight):
        def leaf(b):
            spread = jnp.reshape(weight.astype(b.dtype), weight.shape + (1,) * b.ndim)
            return spread * jnp.reshape(b, (1,) * weight.ndim + b.shape)

        return jax.tree.map(leaf, bar)

    return {name: times(weight) for name, weight in weights.items()}
