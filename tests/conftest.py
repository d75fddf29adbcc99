"""Settings and fixtures that every test shares."""

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from helpers import QUICK_FLAGS
from jaxtyping import Array, Key

from jaxode._jax_versions import enable_x64


# A silent upcast or broadcast is a bug in this library, so both raise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """As many processes as cores that this one may use.

    Left alone, pytest-xdist counts the machine's where psutil happens to be installed.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Most of a test's time is compilation


def pytest_configure(config: pytest.Config) -> None:
    _compile_quickly()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _share_compiled_programs(config)


def _compile_quickly() -> None:
    """Has XLA compile fast in this process, and not in those that tests start.

    A command that a test starts must compile as a user's does, to the same bits.
    """
    if "XLA_FLAGS" in os.environ:
        return
    os.environ["XLA_FLAGS"] = QUICK_FLAGS
    jax.devices()  # reads the flags
    del os.environ["XLA_FLAGS"]


def _share_compiled_programs(config: pytest.Config) -> None:
    """Keeps compiled programs for this session, in a folder that its processes share.

    Many tests build a program that another has compiled before them.
    """
    folder = getattr(config, "workerinput", {}).get("compiled")
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="jaxode-compiled-")
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_configure_node(node: Any) -> None:
    """Tells a process of pytest-xdist, before it starts, where the folder is."""
    node.workerinput["compiled"] = jax.config.values["jax_compilation_cache_dir"]


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Frees what a file has compiled, or a process grows to gigabytes.

    What another file needs of it comes back from the folder.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs one test in double precision.

    The switch is off elsewhere: users run in single precision, so the tests must too.
    """
    with enable_x64(True):
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
