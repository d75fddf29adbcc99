"""A run in several processes.

All run the same program, each on its part of every batch. The first one keeps the run:
it prints and writes. The others write into a folder of their own, which is thrown away,
so nothing else in this room needs to know of them.
"""

import contextlib
import dataclasses
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from classifier.config import Config
from console.command_line import InputError
from console.signals import saving_first


CONNECT_S = 60
"""How long a process waits for the others when it starts."""

LOST_S = 30
"""After how long a process that does not answer is given up."""


def in_processes(work: Callable[[Config], Any], config: Config) -> Any:
    """Does the work together with the other processes.

    Where one of them ends early, so do the others, with a line that says so: at once if
    they talk to it, within `LOST_S` seconds if it has stopped to answer. A signal to
    one or to all is obeyed by all, when the running steps are saved.

    Raises:
        InputError: if the others cannot be found.
    """
    _connect(config)
    try:
        # One that left by itself would take the others with it, before they have saved.
        with saving_first(), _apart(config) as own:
            return work(own)
    except jax.errors.JaxRuntimeError as error:
        why = next(iter(str(error).splitlines()), "")[:160]
        _end_at_once(f"another process has ended or does not answer ({why}). {_AGAIN}")
    except InputError as error:
        _end_at_once(str(error))


_AGAIN = (
    "Start all of them again, with --resume and the folder of the run; their number "
    "may be another one."
)


def _end_at_once(text: str) -> None:
    """Ends this process: the ordinary way out would wait for the others."""
    print(f"mnist.py: process {jax.process_index()}: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _connect(config: Config) -> None:
    # JAX itself ends a process whose wait was in vain, before it could say so here.
    if config.num_processes is not None:
        print(
            f"mnist.py: process {config.process_id} waits up to {CONNECT_S} s for all "
            f"{config.num_processes} at {config.coordinator_address}; start each with "
            "these and its own --process-id.",
            file=sys.stderr,
            flush=True,
        )
    try:
        jax.distributed.initialize(
            config.coordinator_address,
            config.num_processes,
            config.process_id,
            **_timeouts(),
        )
        jax.devices()
    except (ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"--distributed did not find the other processes ({first}). JAX detects "
            "them on Slurm, Open MPI, Kubernetes and TPUs; elsewhere start each with "
            "--coordinator-address HOST:PORT --num-processes N --process-id I, I from "
            f"0 to N - 1, within {CONNECT_S} seconds of each other."
        ) from error


def _timeouts() -> dict[str, Any]:
    """Those that this version of JAX knows."""
    known = inspect.signature(jax.distributed.initialize).parameters
    wanted = {
        "initialization_timeout": CONNECT_S,
        "heartbeat_timeout_seconds": LOST_S,
        "shutdown_timeout_seconds": LOST_S,
    }
    return {name: seconds for name, seconds in wanted.items() if name in known}


@contextlib.contextmanager
def _apart(config: Config) -> Iterator[Config]:
    """The settings as this process is to follow them.

    In all processes but the first, output is dropped and the folder is a temporary one,
    with a copy of the run that is resumed.
    """
    if jax.process_index() == 0:
        multihost_utils.sync_global_devices("copied")
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="jaxode-follower-") as folder:
        path = Path(folder, "run")
        if config.resume is None:
            config = dataclasses.replace(config, out=path)
        else:
            # Before the first one goes on with it.
            shutil.copytree(config.resume, path)
            config = dataclasses.replace(config, out=None, resume=path)
        multihost_utils.sync_global_devices("copied")
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield dataclasses.replace(config, quiet=True)


def is_first() -> bool:
    """Whether this process is the one that keeps the run."""
    return jax.process_index() == 0


def as_any(number: int) -> int:
    """The largest number that a process has: where one is to stop, all are."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def as_the_first(number: int) -> int:
    """The number that the first process has: what a clock decides, one must decide."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
