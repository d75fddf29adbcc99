"""The cache and the prepared data set, damaged or not."""

import dataclasses
import importlib
import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from served import assert_is_tiny, flip, NAMES, TEST, TRAIN, truncate

from jaxode import datasets
from jaxode.datasets import DataError, load, Split, tfds
from jaxode.datasets.cache import read_cache, write_cache
from jaxode.datasets.source import find_problem, SOURCES


def test_second_start_needs_no_file_no_network_and_no_tensorflow_datasets(
    folder: Path, cache: Path
):
    load("mnist", data_dir=folder)
    # A process of its own, since this one has imported everything.
    program = """
        import dataclasses, sys
        from jaxode.datasets import load
        from jaxode.datasets.source import SOURCES
        SOURCES["mnist"] = dataclasses.replace(SOURCES["mnist"], counts=(30, 10))
        print(load().train_images.shape)
        print({"tensorflow_datasets", "sklearn", "PIL", "requests"} & {*sys.modules})
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["(30, 28, 28, 1)", "set()"]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    flip(path, 0.5)


def hold_another_data_set(path: Path) -> None:
    other = dataclasses.replace(datasets.Dataset("kmnist", TRAIN, TEST))
    write_cache(path, other)


def lose_an_image(path: Path) -> None:
    short = Split(TRAIN.images[1:], TRAIN.labels[1:])
    write_cache(path, datasets.Dataset("mnist", short, TEST))


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize(
    "damage", [empty, truncate, flip_a_bit, hold_another_data_set, lose_an_image]
)
def test_damaged_cache_is_rebuilt(damage: Callable[[Path], None], cache: Path):
    load("mnist")
    (path,) = cache.glob("*.npz")
    whole = path.read_bytes()
    damage(path)
    assert_is_tiny(load("mnist"))
    # Equal but for the times that a zip file holds.
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("pattern", ["*train.array_record*", "dataset_info.json"])
def test_damaged_preparation_is_made_anew(pattern: str, cache: Path):
    load("mnist")
    (cache / "mnist-1.npz").unlink()
    (part,) = cache.glob(f"tfds/mnist/*/{pattern}")
    flip(part, 0.5) if part.suffix != ".json" else truncate(part)
    lines: list[str] = []
    assert_is_tiny(load("mnist", on_notice=lines.append))
    assert len(lines) == 1 and lines[0].startswith("Preparing")


@pytest.mark.usefixtures("fetched")
def test_preparation_that_cannot_be_read_is_tried_twice_and_reported(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(builder: object, source: object) -> datasets.RecordSet:
        raise RuntimeError("bad chunk")

    monkeypatch.setattr(tfds, "_records", fail)
    lines: list[str] = []
    with pytest.raises(DataError, match=r"could not prepare MNIST in .*bad chunk"):
        load("mnist", on_notice=lines.append)
    assert len(lines) == 2
    assert not list(cache.glob("*.npz"))


@pytest.mark.usefixtures("fetched")
def test_incomplete_preparation_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tfds.TfdsRecords, "__len__", lambda self: 29)
    with pytest.raises(DataError, match=r"does not hold \(30, 10\) images"):
        load("mnist")


@pytest.mark.usefixtures("fetched")
def test_second_of_two_processes_uses_what_the_first_prepared(
    monkeypatch: pytest.MonkeyPatch,
):
    encode, others = tfds._encode_png, []

    def encode_while_another_prepares(image: np.ndarray) -> bytes:
        if not others:
            others.append(None)
            others.append(load("mnist"))
        return encode(image)

    monkeypatch.setattr(tfds, "_encode_png", encode_while_another_prepares)
    lines: list[str] = []
    assert_is_tiny(load("mnist", on_notice=lines.append))
    assert_is_tiny(others[1])
    assert len(lines) == 1  # The loser read the winner's folder, it did not start anew.


def test_failed_write_leaves_the_old_cache_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "mnist-1.npz"
    path.write_bytes(b"old")

    def fill_the_disk(file, **arrays: np.ndarray):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_cache(path, datasets.Dataset("mnist", TRAIN, TEST))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("has_wheel", [True, False])
def test_unusable_cache_folder_is_reported(
    has_wheel: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    if not has_wheel:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    inside_a_file = folder / NAMES[0] / "cache"
    match = r"(could not prepare MNIST in|The data cache) .*cache.*JAXODE_CACHE_DIR"
    with pytest.raises(DataError, match=match):
        load("mnist", data_dir=folder, cache_dir=inside_a_file)


@pytest.mark.slow
def test_cache_that_is_damaged_anywhere_is_not_believed(folder: Path, cache: Path):
    """Flips of single bits, and cuts, all over: the same images, or none."""
    load("mnist", data_dir=folder)
    file = cache / "mnist-1.npz"
    whole, source = file.read_bytes(), SOURCES["mnist"]
    lengths = [*range(0, len(whole), 512), *range(len(whole) - 60, len(whole))]
    for length in lengths:
        file.write_bytes(whole[:length])
        assert read_cache(file, source) is None, length
    # The step is odd: all bits of a byte have their turn.
    refused = 0
    for place in range(0, 8 * len(whole), 8 * len(whole) // 4000 // 2 * 2 + 1):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        found = read_cache(file, source)
        refused += found is None
        if found is not None:  # a date in the archive, which says nothing
            assert_is_tiny(found)
    assert refused > 3500


@pytest.mark.slow
def test_original_file_that_is_damaged_anywhere_is_named(folder: Path):
    for file in SOURCES["mnist"].files:
        path = folder / file.name
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            for content in (bytes(damaged), whole[:place]):
                path.write_bytes(content)
                assert (find_problem(folder, file) or "").startswith(file.name)
