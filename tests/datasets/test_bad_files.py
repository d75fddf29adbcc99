"""Files that are not what they should be, and packages that are missing."""

import dataclasses
import gzip
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import CONTENTS, flip, idx_bytes, NAMES, Server, truncate

from jaxode.datasets import DataError, download, load
from jaxode.datasets.source import read_idx, SOURCES


def remove(path: Path) -> None:
    path.unlink()


def flip_the_last_bit(path: Path) -> None:
    flip(path, 1 - 1e-9)


def swap(path: Path) -> None:
    path.write_bytes(CONTENTS[NAMES[2]])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD_FILES = [
    (remove, r"train-images-idx3-ubyte.gz is missing \([\d,]+ bytes expected\)"),
    (truncate, r"train-images-idx3-ubyte.gz has [\d,]+ bytes, [\d,]+ expected"),
    (flip_the_last_bit, r"train-images-idx3-ubyte.gz is damaged \(sha256 \w{64} exp"),
    (swap, r"train-images-idx3-ubyte.gz is t10k-images-idx3-ubyte.gz of mnist"),
    (become_a_folder, r"train-images-idx3-ubyte.gz cannot be read \(Is a directory\)"),
]


@pytest.mark.parametrize("dataset", ["mnist", "auto"])
@pytest.mark.parametrize(("damage", "message"), BAD_FILES)
def test_bad_file_is_named_even_when_the_data_is_cached(
    damage: Callable[[Path], None], message: str, dataset: str, folder: Path
):
    load("mnist", data_dir=folder)
    damage(folder / NAMES[0])
    with pytest.raises(DataError, match=f"^data_dir '.*: {message}"):
        load(dataset, data_dir=folder)


def test_every_bad_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in NAMES[1:3]:
        remove(folder / name)
    monkeypatch.setenv("JAXODE_DATA_DIR", str(folder))
    with pytest.raises(DataError, match=f"^JAXODE_DATA_DIR .*{NAMES[1]}.*{NAMES[2]}"):
        load("mnist")


def test_files_of_another_data_set_do_not_pass_for_mnist(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    # Same names, same form, other sums: the tiny files are now Fashion-MNIST's.
    tiny = SOURCES["mnist"]
    fashion = dataclasses.replace(tiny, name="fashion_mnist")
    other = "0" * 64
    sums = [file._replace(sha256=other, content_sha256=other) for file in tiny.files]
    mnist = dataclasses.replace(tiny, files=(sums[0], sums[1], sums[2], sums[3]))
    monkeypatch.setitem(SOURCES, "fashion_mnist", fashion)
    monkeypatch.setitem(SOURCES, "mnist", mnist)
    with pytest.raises(DataError, match=f"{NAMES[0]} is {NAMES[0]} of fashion_mnist"):
        load("mnist", data_dir=folder)


@pytest.mark.usefixtures("fetched")
def test_tensorflow_datasets_checks_the_sums_itself(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "find_problem", lambda folder, file: None)
    flip_the_last_bit(cache / "downloads" / "mnist" / NAMES[0])
    with pytest.raises(DataError, match="could not prepare.*has wrong checksum"):
        load("mnist")


def test_tensorflow_datasets_takes_no_file_without_a_sum(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    official: Any = importlib.import_module("tensorflow_datasets").builder_cls("mnist")
    monkeypatch.setattr(official, "url_infos", {})
    with pytest.raises(DataError, match="could not prepare.*Missing checksums url"):
        load("mnist")


def test_absent_folder_is_reported(tmp_path: Path):
    with pytest.raises(
        DataError, match="data_dir names '.*absent', which is no folder"
    ):
        load("mnist", data_dir=tmp_path / "absent")


def test_unknown_data_set_is_reported_with_the_list():
    with pytest.raises(DataError, match="Unknown data set 'mist'; .*auto.*kmnist, dig"):
        load("mist")


def test_file_that_is_no_idx_is_reported(tmp_path: Path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx_bytes(np.zeros((2, 3), np.uint8)))
    assert read_idx(path).shape == (2, 3)
    content = gzip.decompress(path.read_bytes())
    for bad in (b"", b"\x01" + content[1:], content[:-1]):
        path.write_bytes(gzip.compress(bad))
        with pytest.raises(DataError, match="a.gz is no IDX file of bytes"):
            read_idx(path)


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize(
    ("module", "dataset"),
    [
        ("sklearn.datasets", "digits"),
        ("tensorflow_datasets", "mnist"),
        ("importlib_resources", "mnist"),
        ("requests", "kmnist"),
    ],
)
def test_missing_package_names_the_extra(
    module: str, dataset: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*pip install .jaxode\[experi"):
        load(dataset)
