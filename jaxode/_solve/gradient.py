"""Gradients together with what it cost to compute them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx

from .overrides import current_overrides, overriding
from .stats import BackwardStats


def value_and_grad_with_stats(
    loss_fn: Callable, *, has_aux: bool | None = None
) -> Callable[..., tuple[Any, Any, BackwardStats]]:
    """Like `equinox.filter_value_and_grad`, with the backward pass's counts.

        (loss, aux), grads, stats = value_and_grad_with_stats(loss_fn)(params, data)

    Every `odeint` and `ODEBlock` inside the loss reports, nested in `jit`, `scan` or
    `vmap` or not; the counts are summed.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, returning a scalar, or a pair of a
            scalar and anything else.
        has_aux: Whether it returns a pair; found out by looking if left out.

    Returns:
        A function with the arguments of `loss_fn`, returning its value (the pair, if
        it is one), the gradient with respect to the floating arrays in `params`, and
        a `BackwardStats`.
    """

    @functools.wraps(loss_fn)
    def with_stats(params, *args, **kwargs):
        def inner(params_and_probe):
            params, probe = params_and_probe
            with overriding(dataclasses.replace(current_overrides(), probe=probe)):
                out = loss_fn(params, *args, **kwargs)
            is_pair = isinstance(out, tuple) if has_aux is None else has_aux
            loss = out[0] if is_pair else out
            return loss, out

        (_, out), (grads, stats) = eqx.filter_value_and_grad(inner, has_aux=True)(
            (params, BackwardStats.probe())
        )
        return out, grads, stats

    return with_stats
