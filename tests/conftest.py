"""Settings and fixtures that every test shares."""

from collections.abc import Callable, Iterator

import jax
import pytest
from jaxtyping import Array, Key


# A silent upcast or broadcast is a bug in this library, so both raise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs one test in double precision.

    The switch is off elsewhere: users run in single precision, so the tests must too.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def getkey() -> Callable[[], Key[Array, ""]]:
    """Returns a function that gives a new random key on each call.

    The sequence is the same in every test and every run.
    """
    key = jax.random.key(5678)
    count = 0

    def next_key() -> Key[Array, ""]:
        nonlocal count
        count += 1
        return jax.random.fold_in(key, count)

    return next_key
