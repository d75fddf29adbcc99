"""Records, and batches that are read ahead of their use."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from served import flip, TEST, TRAIN
from test_packings import gzip_anew, unpack

from jaxode.datasets import (
    ArrayRecords,
    DataError,
    load,
    load_records,
    Records,
    Split,
    stream,
)


class CountingRecords(ArrayRecords):
    """Tells which images were read, and how often."""

    def __init__(self, split: Split):
        super().__init__(split)
        # Appending is atomic, and there are several threads.
        self.reads: list[np.ndarray]
        object.__setattr__(self, "reads", [])

    def read(self, indices: np.ndarray) -> Split:
        self.reads.append(indices)
        return super().read(indices)

    @property
    def places(self) -> list[int]:
        return [int(i) for indices in self.reads for i in indices]


@pytest.mark.parametrize("pack", [lambda folder: None, unpack, gzip_anew])
def test_records_are_the_images_of_load(folder: Path, pack: Callable[[Path], None]):
    pack(folder)
    records = load_records("mnist", data_dir=folder)
    assert records.name == "mnist" and isinstance(records.train, Records)
    for found, split in ((records.train, TRAIN), (records.test, TEST)):
        assert len(found) == len(split.labels)
        some = np.array([7, 0, 9, 9])
        for actual, expected in zip(found.read(some), split, strict=True):
            np.testing.assert_array_equal(actual, expected[some])
            assert actual.dtype == expected.dtype


def test_unpacked_files_stay_on_the_disk(folder: Path):
    unpack(folder)
    records = load_records("mnist", data_dir=folder).train
    assert isinstance(records, ArrayRecords)
    base = records.split.images
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


def test_digits_are_records_too():
    digits, records = load("digits"), load_records("digits")
    np.testing.assert_array_equal(
        records.test.read(np.array([3, 1])).images, digits.test.images[[3, 1]]
    )


def test_records_that_were_damaged_since_say_where(folder: Path, cache: Path):
    load_records("mnist", data_dir=folder)
    (part,) = cache.glob("tfds/mnist/*/*train*array_record*")
    flip(part, 0.5)
    records = load_records("mnist", data_dir=folder).train
    with pytest.raises(DataError, match=r"tfds/mnist/.* cannot be read .*delete it"):
        records.read(np.arange(30))


def grain_or_skip() -> None:
    pytest.importorskip("grain", reason="needs the extra stream")


@pytest.mark.slow
def test_stream_reads_what_is_asked_for_and_at_most_two_ahead():
    """Each element in its place, its neighbours' images never; and gone on with."""
    grain_or_skip()
    order = np.random.default_rng(0).permutation(TRAIN.labels.size).reshape(10, 3)
    mine = order[:, :2]  # of two processes
    records = CountingRecords(TRAIN)
    seen = 0
    for images, labels in stream(records, mine, ahead=2):
        time.sleep(0.02)  # for the threads to read what they may
        assert len(records.reads) <= seen + 1 + 2
        np.testing.assert_array_equal(images, TRAIN.images[mine[seen]])
        np.testing.assert_array_equal(labels, TRAIN.labels[mine[seen]])
        seen += 1
    assert seen == 10
    assert sorted(records.places) == sorted(mine.ravel())
    rest = [labels for _, labels in stream(records, mine[7:])]
    np.testing.assert_array_equal(rest, TRAIN.labels[mine[7:]])


@pytest.mark.slow
def test_stream_that_is_left_ends_its_threads_and_takes_any_shapes():
    grain_or_skip()
    order = [np.arange(6).reshape(2, 3), np.arange(6, 9).reshape(1, 3)]
    before = threading.active_count()
    elements = stream(ArrayRecords(TRAIN), order)
    assert next(elements).images.shape == (2, 3, 28, 28, 1)
    elements.close()  # type: ignore[attr-defined]
    ends = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < ends:
        time.sleep(0.01)
    assert threading.active_count() <= before
    shapes = [labels.shape for _, labels in stream(ArrayRecords(TRAIN), order)]
    assert shapes == [(2, 3), (1, 3)]


@pytest.mark.slow
def test_error_of_a_thread_reaches_who_asks():
    grain_or_skip()

    class Broken(ArrayRecords):
        def read(self, indices: np.ndarray) -> Split:
            raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        next(stream(Broken(TRAIN), [np.arange(3)]))


def test_stream_that_reads_nothing_ahead_is_refused():
    with pytest.raises(ValueError, match="ahead=0 must be at least 1"):
        stream(ArrayRecords(TRAIN), [np.arange(3)], ahead=0)
