"""Pieces of a program that XLA:CPU compiles apart, rather than into all their readers.

XLA:CPU fuses greedily: whatever looks cheap, a stencil or a convolution written as
additions, is computed anew inside each of its readers, and these inside theirs. The
stages of a Runge-Kutta step read each other, so a field is then evaluated dozens of
times for one call (a reaction-diffusion field on 4,096 points takes 8 times as long),
and the gradient of a convolution compiles for minutes. `lax.optimization_barrier` does
not stop it: jax 0.10 and 0.12 drop barriers before they fuse. A call that may not be
inlined does, in both.

Other platforms fuse within bounds, and inline as usual.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata


P = ParamSpec("P")
R = TypeVar("R")


_MARK = "noinline_"


def is_apart(operation: Any) -> bool:
    """Whether an operation of a traced program is a call of such a function."""
    return str(operation.params.get("name", "")).startswith(_MARK)


def noinline(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function one that XLA:CPU neither inlines nor fuses across.

    Whether the program is for a CPU is asked while tracing, of
    `jax.default_backend()`: a choice while lowering (`jax.lax.platform_dependent`) is
    differentiated branch by branch, with room for the residuals of all. A wrong guess
    costs speed only.

    Args:
        *static: Names of the keyword arguments that are not arrays.

    Returns:
        A decorator. The function is traced once for each shape, as under `jax.jit`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @partial(jax.jit, static_argnames=static)
        @_named(_MARK + function.__name__)
        @wraps(function)
        def body(*args: P.args, **kwargs: P.kwargs) -> R:
            # The mark is for the call alone: `jnp` functions inside are calls too.
            with set_xla_metadata(inlineable=None):
                return function(*args, **kwargs)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if jax.default_backend() != "cpu":
                return body(*args, **kwargs)
            with set_xla_metadata(inlineable="false"):
                return body(*args, **kwargs)

        return call

    return decorate


def _named(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def rename(function: Callable[P, R]) -> Callable[P, R]:
        function.__name__ = name
        return function

    return rename
