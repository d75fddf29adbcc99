"""What comes back, and by which way."""

import importlib
import importlib.util
from pathlib import Path

import pytest
from served import assert_is_tiny, NAMES, Server

from jaxode.datasets import load


def test_downloaded_mnist_equals_its_files(
    server: Server, cache: Path, capfd: pytest.CaptureFixture[str]
):
    lines: list[str] = []
    assert_is_tiny(load("mnist", on_notice=lines.append))
    assert set(server.requested) == set(NAMES)
    assert list(cache.glob("tfds/mnist/*/mnist-train.array_record*"))
    assert [line.split()[0] for line in lines] == ["Downloading", "Preparing"]
    assert capfd.readouterr() == ("", "")  # No bars of others among the caller's lines.


def test_dataset_unpacks_into_two_splits_and_keeps_its_name(folder: Path):
    data = load("mnist", data_dir=folder)
    (train_images, train_labels), (test_images, test_labels) = data
    assert train_images is data.train_images and train_labels is data.train_labels
    assert test_images is data.test_images and test_labels is data.test_labels
    assert (data.name, data.num_classes) == ("mnist", 10)


def test_auto_is_mnist_when_the_files_are_there(folder: Path):
    assert_is_tiny(load(data_dir=folder))


def test_files_in_a_folder_are_read_directly(folder: Path, cache: Path):
    lines: list[str] = []
    assert_is_tiny(load("mnist", data_dir=folder, on_notice=lines.append))
    assert not (cache / "tfds").exists()
    assert not lines


def test_downloaded_files_are_read_directly_when_array_record_has_no_wheel(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_is_tiny(load("mnist"))
    assert set(server.requested) == set(NAMES)
    assert not (cache / "tfds").exists()


def test_named_folder_is_only_read(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def state() -> list[tuple[str, int]]:
        paths = [folder, *sorted(folder.rglob("*"))]
        return [(str(path), path.stat().st_mtime_ns) for path in paths]

    folder.chmod(0o555)
    before = state()
    monkeypatch.setenv("JAXODE_DATA_DIR", str(folder))
    assert_is_tiny(load("mnist"))
    assert state() == before
    assert not (cache / "downloads").exists()
    folder.chmod(0o755)


def test_argument_goes_before_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JAXODE_DATA_DIR", str(tmp_path / "absent"))
    monkeypatch.setenv("JAXODE_CACHE_DIR", str(tmp_path / "unused"))
    load("mnist", data_dir=folder, cache_dir=tmp_path / "used")
    assert (tmp_path / "used").exists() and not (tmp_path / "unused").exists()
