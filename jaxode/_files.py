"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the body is done.

        with atomic_write(path) as file:
            file.write(content)

    Until all of it is on the disk, whatever was at `path` stays there; where the body
    raises, it stays for good. The temporary file lies in the same folder, since a
    rename is atomic only within one file system. Its name starts with a dot and ends
    with `.tmp`.

    Args:
        path: The file; its folder must exist.

    Yields:
        A binary file to write to.

    Raises:
        OSError: where it cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> import jaxode
        >>> with jaxode.training.atomic_write("note.txt") as file:
        ...     _ = file.write(b"whole, or not at all")
        >>> Path("note.txt").read_text()
        'whole, or not at all'
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode any other new file has.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Puts the rename itself on the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
