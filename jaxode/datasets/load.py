"""`load`: a data set by its name, from wherever it can be had."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from .cache import cache_file, cache_folder, has_counts, read_cache, write_cache
from .dataset import DataError, Dataset
from .digits import load_digits
from .download import DownloadError, fetch
from .packing import find_files, Found
from .source import read_files, Source, SOURCES
from .tfds import read_through_tfds


DATASETS = ("auto", *SOURCES, "digits")

PathLike = str | os.PathLike[str]


def load(
    dataset: str = "auto",
    *,
    data_dir: PathLike | None = None,
    cache_dir: PathLike | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> Dataset:
    """Returns MNIST, or one of its relatives, as NumPy arrays.

    The original files are checked by sha256, prepared by tensorflow-datasets (without
    TensorFlow) and cached, so the first call takes about 20 s and later ones 0.1 s.
    MNIST is known by its content too: unpacked, gzipped by somebody else, or in the
    folders of torchvision (`MNIST/raw`), it is read as it is.
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
    if dataset not in DATASETS:
        raise DataError(
            f"Unknown data set {dataset!r}; choose one of {', '.join(DATASETS)}."
        )
    if dataset == "digits":
        return load_digits()
    source = SOURCES["mnist" if dataset == "auto" else dataset]
    try:
        return _load(source, data_dir, cache_dir, on_notice or (lambda line: None))
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
    return load_digits()


def _warn(line: str) -> None:
    warnings.warn(line, UserWarning, stacklevel=3)


def _load(
    source: Source,
    data_dir: PathLike | None,
    cache_dir: PathLike | None,
    on_progress: Callable[[str], None],
) -> Dataset:
    named = _check_named_folder(source, data_dir)
    root = cache_folder(cache_dir)
    cache = cache_file(root, source)
    dataset = read_cache(cache, source)
    if dataset is not None:
        return dataset

    def published() -> Path:
        if named is not None and named.folder is not None:
            return named.folder
        return fetch(source, root / "downloads" / source.name, on_progress)

    try:
        if named is not None and named.folder is None:
            dataset = read_files(named.paths, source)
        # array_record has no wheels for Windows and Intel Macs.
        elif importlib.util.find_spec("array_record") is None:
            folder = published()
            dataset = read_files([folder / file.name for file in source.files], source)
        else:
            dataset = read_through_tfds(source, root / "tfds", published, on_progress)
        assert has_counts(dataset, source)
        write_cache(cache, dataset)
    except OSError as error:
        raise DataError(
            f"The data cache {root} cannot be used ({error}); name another folder with"
            " JAXODE_CACHE_DIR or cache_dir=..."
        ) from error
    return dataset


def _check_named_folder(source: Source, data_dir: PathLike | None) -> Found | None:
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
    found = find_files(folder, source)
    if isinstance(found, Found):
        return found
    raise DataError(
        f"{origin} {str(given)!r} does not hold the original {source.title}:"
        f" {'; '.join(found)}. Put the four original files there, or leave {origin}"
        " out to download them."
    )
