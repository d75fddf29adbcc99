"""A `while` loop with a bound on its turns, which JAX can differentiate."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import PyTree


_BASE = 16


def bounded_while(
    going: Callable[[PyTree], Any],
    body: Callable[[PyTree], PyTree],
    carry: PyTree,
    most: int,
) -> PyTree:
    """`lax.while_loop` of at most `most` turns, differentiable in both modes.

    The loops are nested in sixteens, as those of `diffrax.DirectAdjoint` are: the
    innermost keep every turn, those around them compute theirs again on the way back.
    """
    part, length = body, most
    if most > _BASE:
        inner = _BASE
        while inner * _BASE < most:
            inner *= _BASE
        length = -(-most // inner)
        part = jax.checkpoint(lambda carry: bounded_while(going, body, carry, inner))

    def turn(carry, _):
        return lax.cond(going(carry), part, lambda carry: carry, carry), None

    return lax.scan(turn, carry, length=length)[0]
