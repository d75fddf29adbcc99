"""The original files in the layouts that people have them in: content decides."""

import dataclasses
import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from served import assert_is_tiny, CONTENTS, flip, NAMES

from jaxode.datasets import DataError, load
from jaxode.datasets.source import SOURCES


REAL_FILES = os.environ.get("JAXODE_DATA_DIR")


def unpack(folder: Path) -> None:
    for name in NAMES:
        path = folder / name
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def unpack_with_a_dot(folder: Path) -> None:
    unpack(folder)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))


def gzip_anew(folder: Path) -> None:
    for name in NAMES:
        content = gzip.decompress((folder / name).read_bytes())
        (folder / name).write_bytes(gzip.compress(content, compresslevel=1, mtime=9))


def move_to_torchvisions_folder(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        (folder / name).rename(raw / name)


def unpack_in_torchvisions_folder(folder: Path) -> None:
    move_to_torchvisions_folder(folder)
    unpack(folder / "MNIST" / "raw")


def unpack_one(folder: Path) -> None:
    path = folder / NAMES[2]
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


def keep_a_broken_one_beside(folder: Path) -> None:
    unpack_one(folder)
    (folder / NAMES[2]).write_bytes(CONTENTS[NAMES[2]][:-100])


PACKINGS = [
    unpack,
    unpack_with_a_dot,
    gzip_anew,
    move_to_torchvisions_folder,
    unpack_in_torchvisions_folder,
    unpack_one,
    keep_a_broken_one_beside,
]


@pytest.mark.parametrize("pack", PACKINGS)
def test_same_pixels_whatever_the_packing(pack: Callable[[Path], None], folder: Path):
    pack(folder)
    assert_is_tiny(load("mnist", data_dir=folder))


def test_torchvisions_own_folder_may_be_named(folder: Path):
    unpack_in_torchvisions_folder(folder)
    assert_is_tiny(load("mnist", data_dir=folder / "MNIST"))
    assert_is_tiny(load("mnist", data_dir=folder / "MNIST" / "raw"))


@pytest.mark.parametrize("pack", [unpack, gzip_anew, unpack_in_torchvisions_folder])
def test_one_changed_pixel_is_refused_by_name(
    pack: Callable[[Path], None], folder: Path
):
    pack(folder)
    path = next(folder.rglob(NAMES[2].removesuffix(".gz") + "*"))
    packed = path.suffix == ".gz"
    content = path.read_bytes()
    content = bytearray(gzip.decompress(content) if packed else content)
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=rf"{path.name} (is damaged|has [\d,]+ bytes)"):
        load("mnist", data_dir=folder)


def test_gzip_that_does_not_unpack_is_refused_by_name(folder: Path):
    gzip_anew(folder)
    flip(folder / NAMES[0], 0.5)
    with pytest.raises(DataError, match=re.escape(NAMES[0])):
        load("mnist", data_dir=folder)


def test_relative_without_known_content_needs_the_published_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny = SOURCES["mnist"]
    one, two, three, four = (f._replace(content_sha256=None) for f in tiny.files)
    files = (one, two, three, four)
    monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(tiny, files=files))
    move_to_torchvisions_folder(folder)
    assert_is_tiny(load("mnist", data_dir=folder))
    unpack(folder / "MNIST" / "raw")
    with pytest.raises(DataError, match=f"not as it was published; {NAMES[0]} is need"):
        load("mnist", data_dir=folder)


@pytest.mark.slow
@pytest.mark.data
def test_real_mnist_unpacked_has_the_pixels_of_the_packed(tmp_path: Path):
    published = REAL_FILES
    if published is None:
        pytest.skip("JAXODE_DATA_DIR names no folder with the four MNIST files")
    for file in SOURCES["mnist"].files:
        content = gzip.decompress((Path(published) / file.name).read_bytes())
        (tmp_path / file.name.removesuffix(".gz")).write_bytes(content)
    ours = load("mnist", data_dir=tmp_path, cache_dir=tmp_path / "a")
    theirs = load("mnist", data_dir=published, cache_dir=tmp_path / "b")
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.images, other.images, strict=True)
        np.testing.assert_array_equal(one.labels, other.labels, strict=True)
