"""The folder of results, and files that are written whole or not at all.

Free of JAX until something is written, as reading the settings of a run is.
"""

import contextlib
import os
import time
from pathlib import Path

from console.command_line import InputError


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
    if path is None:
        path = _unused(Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Leftovers of a run that was killed before its first file was complete.
        found = [
            p
            for p in path.iterdir()
            if not (p.name.startswith(".") and p.suffix == ".tmp")
        ]
        trial = path / f".{os.getpid()}.tmp"
        trial.touch()
        trial.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"--out {path} cannot be written: {reason}.") from error
    if found:
        raise InputError(
            f"--out {path} is not empty (it holds {found[0].name}), and nothing "
            f"is overwritten. Name a new folder{instead}."
        )
    return path


def remove_if_empty(path: Path) -> None:
    """Takes back `new_folder` where nothing was written."""
    with contextlib.suppress(OSError):
        path.rmdir()


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step."""
    from jaxode.training import atomic_write

    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _unused(path: Path) -> Path:
    """Two runs may start in the same second."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
