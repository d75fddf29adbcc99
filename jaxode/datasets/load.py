"""`load`: a data set by its name, from wherever it can be had."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from .cache import cache_file, has_counts, read_cache, write_cache
from .dataset import DataError, Dataset
from .digits import load_digits
from .download import DownloadError
from .places import PathLike, Places
from .records import in_memory, RecordSet
from .source import map_idx, read_files, Source, SOURCES
from .tfds import open_in_tfds, read_through_tfds


DATASETS = ("auto", *SOURCES, "digits")

_Data = TypeVar("_Data")


def load(
    dataset: str = "auto",
    *,
    data_dir: PathLike | None = None,
    cache_dir: PathLike | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Dataset:
    """Returns MNIST, or one of its relatives, as NumPy arrays.

    What is downloaded is prepared by tensorflow-datasets (without TensorFlow), which
    takes about 10 s once; files in `data_dir` are read as they are. Both are checked by
    sha256 and cached. MNIST is known by its content too: unpacked, gzipped by somebody
    else, or in the folders of torchvision (`MNIST/raw`).
    `"auto"` is MNIST if it is cached, in `data_dir` or can be downloaded; otherwise it
    is the digits that come with scikit-learn, which are no MNIST: look at the result's
    `name` before a table is headed.

    Args:
        dataset: `"auto"`, `"mnist"`, `"fashion_mnist"`, `"kmnist"` or `"digits"`.
        data_dir: Folder with the four original files, else JAXODE_DATA_DIR, else they
            are downloaded. It is only read. Its files are checked on every call, cache
            or not, and a folder that was named and does not hold them is an error, for
            `"auto"` too: who names a folder wants its content, not a substitute.
            `"digits"` needs no files and ignores it.
        cache_dir: Folder that is written, else JAXODE_CACHE_DIR, else the user's cache.
        on_notice: Called with each line that a person should see: that the digits stand
            in for MNIST, that something takes a while. Without it, the first is a
            `UserWarning` and the rest is silent.

    Returns:
        `Dataset` with uint8 images `(n, 28, 28, 1)` and int32 labels `(n,)`, 60,000 for
        training and 10,000 for testing (digits: 1,437 and 360).

    Raises:
        DataError: if the name is unknown, a file is missing or damaged, the cache
            cannot be written, or (not for `"auto"`) nothing can be downloaded.
        ImportError: if a package of the extra `experiments` is missing.

    Examples:
        >>> import jaxode
        >>> (train_images, train_labels), test = jaxode.datasets.load("digits")
        >>> train_images.shape, train_labels.dtype
        ((1437, 28, 28, 1), dtype('int32'))
    """
    find = partial(_load, data_dir=data_dir, cache_dir=cache_dir)
    return _find(dataset, find, load_digits, on_notice)


def load_records(
    dataset: str = "auto",
    *,
    data_dir: PathLike | None = None,
    cache_dir: PathLike | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> RecordSet:
    """The same images as records, of which `stream` reads what is asked for.

    They are those of tensorflow-datasets' random-access source, on the disk. MNIST that
    lies in a folder unpacked is mapped from there. What cannot be read in parts is in
    memory all the same: files that somebody else has gzipped, the digits, and all that
    is gzipped where array_record has no wheels.

    Args:
        dataset: As in `load`.
        data_dir: As in `load`.
        cache_dir: As in `load`.
        on_notice: As in `load`.

    Returns:
        What reads the images of `load`, by their places there.

    Raises:
        DataError: as `load` does.
        ImportError: as `load` does.

    Examples:
        >>> import jaxode
        >>> records = jaxode.datasets.load_records("digits")
        >>> records.name, len(records.train)
        ('digits', 1437)
    """

    def digits() -> RecordSet:
        return in_memory(load_digits())

    find = partial(_open, data_dir=data_dir, cache_dir=cache_dir)
    return _find(dataset, find, digits, on_notice)


def _find(
    dataset: str,
    find: Callable[..., _Data],
    digits: Callable[[], _Data],
    on_notice: Callable[[str], None] | None,
) -> _Data:
    if dataset not in DATASETS:
        raise DataError(
            f"Unknown data set {dataset!r}; choose one of {', '.join(DATASETS)}."
        )
    if dataset == "digits":
        return digits()
    source = SOURCES["mnist" if dataset == "auto" else dataset]
    try:
        return find(source, on_progress=on_notice or (lambda line: None))
    except DownloadError as error:
        if dataset != "auto":
            raise
        reason = error.reason
    (on_notice or _warn)(
        f"NOT MNIST: it is not on this machine and cannot be downloaded ({reason})."
        " Using scikit-learn's 1,797 embedded 8x8 digits, scaled to 28x28, instead;"
        " accuracies on them are not comparable with MNIST. For MNIST itself, connect"
        " to the network, or name a folder that holds the four original files with"
        " --data-dir (data_dir=...) or JAXODE_DATA_DIR."
    )
    return digits()


def _warn(line: str) -> None:
    warnings.warn(line, UserWarning, stacklevel=4)


def _load(
    source: Source,
    data_dir: PathLike | None,
    cache_dir: PathLike | None,
    on_progress: Callable[[str], None],
) -> Dataset:
    places = Places.of(source, data_dir, cache_dir, on_progress)
    cache = cache_file(places.root, source)
    dataset = read_cache(cache, source)
    if dataset is not None:
        return dataset
    with places.errors():
        files = places.files()
        if files is not None:
            dataset = read_files(files, source)
        else:
            dataset = read_through_tfds(*places.for_tfds)
        assert has_counts(dataset, source)
        write_cache(cache, dataset)
    return dataset


def _open(
    source: Source,
    data_dir: PathLike | None,
    cache_dir: PathLike | None,
    on_progress: Callable[[str], None],
) -> RecordSet:
    places = Places.of(source, data_dir, cache_dir, on_progress)
    with places.errors():
        files = places.files(in_parts=True)
        if files is not None:
            return in_memory(read_files(files, source, map_idx))
        return open_in_tfds(*places.for_tfds, lambda records: records)
