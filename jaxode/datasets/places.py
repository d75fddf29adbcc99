"""Where a data set is to be had from: a folder that was named, or the cache."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_folder
from .dataset import DataError
from .download import fetch
from .packing import as_published, find_files
from .source import Source


PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Places:
    """Where a data set is to be had from.

    Attributes:
        source: The data set.
        named: Files in a folder that was named.
        root: The cache.
        on_progress: Called with a line for people.
    """

    source: Source
    named: list[Path] | None
    root: Path
    on_progress: Callable[[str], None]

    @classmethod
    def of(
        cls,
        source: Source,
        data_dir: PathLike | None,
        cache_dir: PathLike | None,
        on_progress: Callable[[str], None],
    ) -> "Places":
        named = _check_named_folder(source, data_dir)
        return cls(source, named, cache_folder(cache_dir), on_progress)

    def files(self, in_parts: bool = False) -> list[Path] | None:
        """The four files that are to be read; None where tensorflow-datasets does.

        Args:
            in_parts: Whether nothing is to be in memory as a whole, as gzipped files
                would have to be.
        """
        # array_record has no wheels for Windows and Intel Macs.
        has_tfds = importlib.util.find_spec("array_record") is not None
        if self.named is not None:
            prepared = in_parts and has_tfds and as_published(self.named, self.source)
            return None if prepared else self.named
        if has_tfds:
            return None
        return [self.published() / file.name for file in self.source.files]

    @property
    def for_tfds(self) -> tuple[Source, Path, Callable[[], Path], Callable]:
        return self.source, self.root / "tfds", self.published, self.on_progress

    def published(self) -> Path:
        """The folder of the four files as they were published."""
        if self.named is not None:
            return self.named[0].parent
        downloads = self.root / "downloads" / self.source.name
        return fetch(self.source, downloads, self.on_progress)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Says which folder it was that could not be written."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"The data cache {self.root} cannot be used ({error}); name another "
                "folder with JAXODE_CACHE_DIR or cache_dir=..."
            ) from error


def _check_named_folder(source: Source, data_dir: PathLike | None) -> list[Path] | None:
    """Returns the files in the folder that was named, None if there is none.

    Raises:
        DataError: if it does not hold the four original files; all faults are listed.
    """
    given = data_dir or os.environ.get("JAXODE_DATA_DIR")
    if not given:
        return None
    folder = Path(given).expanduser().absolute()
    origin = "data_dir" if data_dir else "JAXODE_DATA_DIR"
    if not folder.is_dir():
        raise DataError(f"{origin} names {str(given)!r}, which is no folder.")
    paths, problems = find_files(folder, source)
    if not problems:
        return paths
    raise DataError(
        f"{origin} {str(given)!r} does not hold the original {source.title}:"
        f" {'; '.join(problems)}. Put the four original files there, or leave {origin}"
        " out to download them."
    )
