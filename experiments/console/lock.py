"""One process at a time in a folder of results."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from console.command_line import InputError


LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder while the body runs.

    The system holds the lock for the process and drops it with the process, however
    that ends. Only its file stays, so that all ask for the same one.

    Raises:
        InputError: if another process has the folder.
        OSError: if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by another process that trains there. Wait for it to "
            "end, or stop it, or name another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
