"""The length of the first step of an adaptive solve."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def _scaled(y: PyTree, scale: PyTree) -> PyTree:
    return jax.tree.map(lambda yi, si: jnp.abs(yi) / si, y, scale)


def hairer_initial_step(
    terms: diffrax.AbstractTerm,
    t0: Any,
    t1: Any,
    y0: PyTree,
    f0: PyTree,
    args: PyTree,
    order: Any,
    controller: diffrax.AbstractAdaptiveStepSizeController,
) -> Float[Array, ""]:
    """Length of the first step, at the cost of one field call.

    A step so short that an explicit Euler step is trusted gives a second derivative,
    and that the length at which a method of this order should just meet the tolerance.

    The rule in the book is written down for the ordinary case. Here, besides, the field
    is asked nowhere but between `t0` and `t1`; no quotient overflows where times are
    short or long; and where the trial leaves the field's domain, the first step is a
    thousandth of it, from which the controller goes on. The result is positive, finite
    and at most `|t1 - t0|`, whatever the field returns.

    Reference:
        Hairer, Norsett & Wanner, Solving ODEs I, II.4, algorithm for the starting step
        size; as in Diffrax and torchdiffeq, `order` is the order of the error
        estimate rather than that plus one.
    """
    rtol, atol, norm = controller.rtol, controller.atol, controller.norm
    dtype = jnp.result_type(t0)
    huge, eps = jnp.finfo(dtype).max, jnp.finfo(dtype).eps
    longest = jnp.asarray(jnp.where(t1 == t0, 1, jnp.abs(t1 - t0)), dtype)
    # The interval is the unit of time in which rates are squared inside a norm.
    unit: Array = jnp.where(jnp.isfinite(longest), longest, jnp.ones_like(longest))
    scale = jax.tree.map(lambda y: atol + rtol * jnp.abs(y), y0)

    def rate(f: PyTree) -> Float[Array, ""]:
        per_unit = jax.tree.map(lambda fi: unit.astype(fi.dtype) * fi, f)
        return jnp.asarray(norm(_scaled(per_unit, scale)), dtype) / unit

    # (a), (b): an Euler step that changes the state by a hundredth of itself.
    d0 = jnp.asarray(norm(_scaled(y0, scale)), dtype)
    d1 = rate(f0)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = jnp.where(tiny, 1e-6, 0.01 * d0 / jnp.where(tiny, 1, d1)).astype(dtype)
    h0 = jnp.where(jnp.isfinite(h0) & (h0 > 0), jnp.minimum(h0, longest), eps * unit)

    # (c), (d): the field after it, and how fast it has changed.
    euler = terms.prod(f0, terms.contr(t0, t0 + h0))
    f1 = terms.vf(t0 + h0, jax.tree.map(jnp.add, y0, euler), args)
    change = rate(jax.tree.map(jnp.subtract, f1, f0))
    is_trusted = jnp.isfinite(change)

    # (e), (f): the length at which the local error is a hundredth of the tolerance.
    largest = jnp.minimum(jnp.maximum(d1, change / h0), huge)
    flat = largest <= 1e-15
    h1 = jnp.where(
        flat,
        jnp.maximum(1e-6, 1e-3 * h0),
        (0.01 / jnp.where(flat, 1, largest)) ** (1 / order),
    ).astype(dtype)
    h = jnp.where(is_trusted, jnp.minimum(100 * h0, h1), 1e-3 * h0)
    return jnp.minimum(jnp.where(h > 0, h, h0), longest)
