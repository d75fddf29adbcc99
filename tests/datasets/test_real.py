"""The real MNIST, where it is."""

import gzip
import importlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import NAMES

from jaxode.datasets import load
from jaxode.datasets.source import SOURCES


REAL_FILES = os.environ.get("JAXODE_DATA_DIR")


@pytest.mark.parametrize("name", SOURCES)
def test_sums_are_those_of_tensorflow_datasets(name: str):
    tfds: Any = importlib.import_module("tensorflow_datasets")
    official, source = tfds.builder_cls(name), SOURCES[name]
    path = tfds.core.utils.tfds_path() / "url_checksums" / f"{name}.txt"
    known = tfds.core.download.checksums.load_url_infos(path)
    assert source.url == official.URL
    assert {url: (info.size, info.checksum) for url, info in known.items()} == {
        source.url + file.name: (file.size, file.sha256) for file in source.files
    }


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("prepared", [False, True])
def test_real_mnist_equals_its_files(prepared: bool, cache: Path):
    if REAL_FILES is None:
        pytest.skip("JAXODE_DATA_DIR names no folder with the four MNIST files")
    if prepared:
        # As a download would leave them, for tensorflow-datasets.
        shutil.copytree(REAL_FILES, cache / "downloads" / "mnist")
    data = load("mnist", data_dir=None if prepared else REAL_FILES)
    assert (cache / "tfds").exists() == prepared
    assert (len(data.train_labels), len(data.test_labels)) == (60_000, 10_000)
    # Known counts of the classes 0 to 9 in the training set.
    np.testing.assert_array_equal(
        np.bincount(data.train_labels),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    )
    # The mean and deviation that everyone normalises MNIST with: 0.1307 and 0.3081.
    assert round(float(data.train_images.mean()) / 255, 4) == 0.1307
    assert round(float(data.train_images.std()) / 255, 4) == 0.3081
    for split, images, labels in zip(data, NAMES[::2], NAMES[1::2], strict=True):
        pixels = gzip.decompress((Path(REAL_FILES) / images).read_bytes())[16:]
        assert split.images.tobytes() == pixels
        expected = gzip.decompress((Path(REAL_FILES) / labels).read_bytes())[8:]
        assert split.labels.astype(np.uint8).tobytes() == expected
