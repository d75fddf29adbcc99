"""Prepares and reads a data set with tensorflow-datasets, without TensorFlow."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .._optional import require
from .dataset import DataError, Dataset
from .records import DamagedError, RecordSet, TfdsRecords
from .source import read_idx, Source


_Data = TypeVar("_Data")


def read_through_tfds(
    source: Source,
    root: Path,
    find_files: Callable[[], Path],
    on_progress: Callable[[str], None],
) -> Dataset:
    """Reads the data set that tensorflow-datasets keeps under `root`.

    Raises the errors of `open_in_tfds`, whose arguments these are.
    """

    def read(records: RecordSet) -> Dataset:
        train, test = (r.read(np.arange(len(r))) for r in (records.train, records.test))
        return Dataset(source.name, train, test)

    return open_in_tfds(source, root, find_files, on_progress, read)


def open_in_tfds(
    source: Source,
    root: Path,
    find_files: Callable[[], Path],
    on_progress: Callable[[str], None],
    take: Callable[[RecordSet], _Data],
) -> _Data:
    """What `take` makes of the data set that tensorflow-datasets keeps under `root`.

    It is prepared first where it is missing, and once more where it turns out damaged.

    Args:
        source: The data set.
        root: Our own folder for tensorflow-datasets, not its usual one: a data set that
            was prepared there with TensorFlow has a format that cannot be read here.
        find_files: Returns the folder of the four original files; asked only where
            something has to be prepared.
        on_progress: Called with a line for people before anything that takes seconds.
        take: Reads of it what is needed.

    Raises:
        DataError: if `find_files` raises it, or a fresh preparation does not read back.
    """
    home = root / source.name
    if not any(home.glob("*/dataset_info.json")):
        find_files()  # Before the import below: no network should be noticed at once.
    failure = None
    for _ in range(2):
        try:
            builder = _find_or_prepare(source, root, find_files, on_progress)
            return take(_records(builder, source))
        # What a damaged folder raises depends on the byte: JSON, protobuf, Riegeli and
        # Pillow all have their own errors.
        except Exception as error:
            is_final = isinstance(error, DataError | ImportError)
            if is_final and not isinstance(error, DamagedError):
                raise
            failure = error
            shutil.rmtree(home, ignore_errors=True)
    raise DataError(
        f"tensorflow-datasets could not prepare {source.title} in {root} ({failure});"
        " check that the folder can be written and the disk has 100 MB left, or name"
        " another with JAXODE_CACHE_DIR or cache_dir=..."
    ) from failure


def _find_or_prepare(
    source: Source,
    root: Path,
    find_files: Callable[[], Path],
    on_progress: Callable[[str], None],
) -> Any:
    builder = _make_builder(source, root)
    if builder.data_path.exists():
        return builder
    files = find_files()
    on_progress(
        f"Preparing {source.title} with tensorflow-datasets, once (about 10 s)."
    )
    _prepare(builder, root, files)
    # The information on shards and counts is read when a builder is made.
    return _make_builder(source, root)


def _records(builder: Any, source: Source) -> RecordSet:
    train, test = (
        TfdsRecords(builder.as_data_source(split=split), builder.data_path)
        for split in ("train", "test")
    )
    if (len(train), len(test)) != source.counts:
        raise ValueError(f"{builder.data_path} does not hold {source.counts} images")
    return RecordSet(source.name, train, test)


def _make_builder(source: Source, root: Path) -> Any:
    """Returns tensorflow-datasets' own builder with its TensorFlow parts replaced.

    Stock builders of this family cannot prepare without TensorFlow
    (tensorflow/datasets 11058, 11212); drop the subclass when they can.
    """
    require("importlib_resources")  # tensorflow-datasets needs it, undeclared (11212).
    tfds = require("tensorflow_datasets")
    official = tfds.builder_cls(source.name)

    # pyright knows nothing of a base that is imported late.
    class Builder(official, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        name = source.name

        def _info(self) -> Any:
            info = super()._info()
            # The order of the original files, the same with and without array_record.
            return tfds.core.DatasetInfo(
                builder=self,
                description=info.description,
                features=info.features,
                supervised_keys=info.supervised_keys,
                homepage=info.homepage,
                citation=info.citation,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            urls = [self.URL + file.name for file in source.files]
            paths = dl_manager.download(urls)
            return {
                "train": self._generate_examples(*paths[:2]),
                "test": self._generate_examples(*paths[2:]),
            }

        def _generate_examples(
            self, images_path: Any, labels_path: Any
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            pairs = zip(
                read_idx(Path(images_path)), read_idx(Path(labels_path)), strict=True
            )
            for index, (image, label) in enumerate(pairs):
                yield index, {"image": _encode_png(image), "label": int(label)}

    return Builder(data_dir=root, file_format="array_record")


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    require("PIL.Image").fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _prepare(builder: Any, root: Path, files: Path) -> None:
    tfds = require("tensorflow_datasets")
    config = tfds.download.DownloadConfig(
        manual_dir=files, force_checksums_validation=True, try_download_gcs=False
    )
    # It prints and draws bars whatever it is told; the caller has its own lines.
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder.download_and_prepare(
                download_dir=root / "downloads", download_config=config
            )
    except OSError:
        # Two processes at once: the second cannot rename its folder into place.
        if not builder.data_path.exists():
            raise
