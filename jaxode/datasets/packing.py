"""Finds the original files as people have them: gzipped anew, unpacked, elsewhere."""

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from .source import File, find_problem, read_packed, Source


def find_files(folder: Path, source: Source) -> tuple[list[Path], list[str]]:
    """Looks for the four files of a data set in a folder.

    They may be in the folder itself or in torchvision's subfolder (`MNIST/raw`), as
    they were published, gzipped by somebody else, or unpacked (their names without the
    `.gz`, or with a dot before `idx`). What is in them decides, by its sha256.

    Args:
        folder: Where to look.
        source: The data set.

    Returns:
        Training images and labels, test images and labels; and what is wrong, a line
        for each that is missing or damaged.
    """
    looked_at = [_find_file(folder, source, file) for file in source.files]
    problems = [found for found in looked_at if isinstance(found, str)]
    return [found for found in looked_at if isinstance(found, Path)], problems


def as_published(paths: list[Path], source: Source) -> bool:
    """Whether four files lie together as they were published.

    `tensorflow-datasets` takes nothing else.
    """
    return len({path.parent for path in paths}) == 1 and all(
        path.name == file.name and find_problem(path.parent, file) is None
        for path, file in zip(paths, source.files, strict=True)
    )


def _find_file(folder: Path, source: Source, file: File) -> Path | str:
    """The first path that holds the file, else the fault of the first that exists."""
    fault = None
    for path in _candidates(folder, source, file):
        problem = _find_problem(path, file)
        if problem is None:
            return path
        fault = fault or problem
    return fault or f"{file.name} is missing ({file.size:,} bytes expected)"


def _candidates(folder: Path, source: Source, file: File) -> Iterator[Path]:
    unpacked = file.name.removesuffix(".gz")
    for place in (folder, folder / "raw", folder / source.subfolder / "raw"):
        for name in (file.name, unpacked, unpacked.replace("-idx", ".idx")):
            if (place / name).exists():
                yield place / name


def _find_problem(path: Path, file: File) -> str | None:
    """What is wrong with one packing of a file, None if its content is right."""
    published = find_problem(path.parent, file) if path.name == file.name else None
    if path.name == file.name and (published is None or file.content_sha256 is None):
        return published
    if file.content_sha256 is None:
        return f"{path.name} is not as it was published; {file.name} is needed"
    try:
        content = read_packed(path)
    except OSError as error:
        return published or f"{path.name} cannot be read ({error.strerror or error})"
    except (EOFError, zlib.error):
        return published or f"{path.name} is damaged"
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == file.content_sha256:
        return None
    return published or (
        f"{path.name} is damaged (sha256 {file.content_sha256} expected, {sha256}"
        " found)"
    )
