"""The arrays as one `.npz` per data set: a later start imports and decodes nothing."""

import os
from pathlib import Path

import numpy as np

from .._files import atomic_write
from .._optional import require
from .dataset import Dataset, Split
from .source import Source


# Part of the file name: raise it when the arrays or their meaning change.
_FORMAT = 1
_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Returns the cache's folder: argument, else JAXODE_CACHE_DIR, else the user's."""
    chosen = cache_dir or os.environ.get("JAXODE_CACHE_DIR")
    if not chosen:
        chosen = require("platformdirs").user_cache_dir("jaxode", appauthor=False)
    return Path(chosen).expanduser().absolute()


def cache_file(folder: Path, source: Source) -> Path:
    """Where the arrays of a data set are kept."""
    return folder / f"{source.name}-{_FORMAT}.npz"


def has_counts(dataset: Dataset, source: Source) -> bool:
    """Whether both splits are complete, images and labels alike."""
    found = tuple((len(split.images), len(split.labels)) for split in dataset)
    return found == tuple((count, count) for count in source.counts)


def read_cache(path: Path, source: Source) -> Dataset | None:
    """Reads the cached arrays; None if there are none, or not whole and the right ones.

    The zip format holds a CRC of every array, so damaged content does not get through.
    """
    try:
        # Opened here, because NumPy leaves a file open that turns out to be no zip.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            name = str(arrays["name"])
            train_images, train_labels, test_images, test_labels = (
                arrays[key] for key in _KEYS
            )
    # One flipped bit can raise BadZipFile, KeyError, ValueError, NotImplementedError
    # ("compression method") or RuntimeError ("encrypted"); all of them mean damaged.
    except Exception:
        return None
    train, test = Split(train_images, train_labels), Split(test_images, test_labels)
    dataset = Dataset(name, train, test)
    return dataset if name == source.name and has_counts(dataset, source) else None


def write_cache(path: Path, dataset: Dataset) -> None:
    """Writes the arrays, whole or not at all.

    Raises:
        OSError: if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = (array for split in dataset for array in split)
    named = dict(zip(_KEYS, arrays, strict=True))
    with atomic_write(path) as file:
        np.savez(file, name=np.array(dataset.name), **named)
