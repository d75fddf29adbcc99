"""The folder of results, and files that are written whole or not at all.

Free of JAX until something is written, as reading the settings of a run is.
"""

import contextlib
import os
import time
from pathlib import Path

from console.command_line import InputError
from console.lock import LOCK_NAME


def new_folder(
    path: Path | None, name: str, instead: str = ", or go on with a run by --resume"
) -> Path:
    """Makes a folder for results.

    Args:
        path: Where; runs/TIME-NAME if `None`.
        name: See `path`.
        instead: What else can be done where the folder is not empty.

    Raises:
        InputError: if there is something in it, or it cannot be written.
    """
    path = make_folder(path, name)
    require_empty(path, instead)
    return path


def make_folder(path: Path | None, name: str) -> Path:
    """The folder of `new_folder`, whatever is in it.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        if path is None:
            start = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
            path = _make_unused(Path("runs") / start)
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".{os.getpid()}.tmp"
        trial.touch()
        trial.unlink()
    except (OSError, ValueError) as error:  # the latter for a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out {path} cannot be written: {reason}.") from error
    return path


def require_empty(
    path: Path, instead: str = ", or go on with a run by --resume"
) -> None:
    """Refuses a folder in which there is something, as `new_folder` does."""
    found = [p for p in path.iterdir() if not _is_leftover(p) and p.name != LOCK_NAME]
    if found:
        raise InputError(
            f"--out {path} is not empty (it holds {found[0].name}), and nothing "
            f"is overwritten. Name a new folder{instead}."
        )


def remove_leftovers(path: Path) -> None:
    """Deletes what a process that was killed while writing has left in its folder."""
    for file in filter(_is_leftover, path.iterdir()):
        file.unlink(missing_ok=True)


def remove_if_empty(path: Path) -> None:
    """Takes back `new_folder` where nothing was written."""
    with contextlib.suppress(OSError):
        if [file.name for file in path.iterdir()] == [LOCK_NAME]:
            (path / LOCK_NAME).unlink()
        path.rmdir()


def keep_previous(path: Path, previous: Path) -> None:
    """Gives what is at `path` a second name, before it is replaced."""
    if not path.exists():
        return
    second = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    try:
        second.unlink(missing_ok=True)
        second.hardlink_to(path)
        second.replace(previous)
    except (OSError, NotImplementedError):
        # A file system without links.
        write_whole(previous, path.read_bytes())
    finally:
        # Where both were one file already, the system replaces nothing.
        second.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    from jaxode.training import atomic_write

    try:
        with atomic_write(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_leftover(path: Path) -> bool:
    """Whether `atomic_write` made it and did not get to its end."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _make_unused(path: Path) -> Path:
    """Two runs may start in the same second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        else:
            return candidate
