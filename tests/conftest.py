"""Settings and fixtures that every test shares."""

import os
from collections.abc import Callable, Iterator

import jax
import platformdirs
import pytest
from jaxtyping import Array, Key


# A silent upcast or broadcast is a bug in this library, so both raise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of a test's time is compilation, so programs are kept from one run to the next.
# In this process only: a command that a test starts compiles as a user's does.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = platformdirs.user_cache_path("jaxode") / "compiled-tests"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
