"""Runs whose training images are read from the disk, a stretch at a time."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest
import streamed
from runs import arrays, metrics, numbers, processes, Runner, TINY, train

import jaxode
from classifier import streaming
from classifier.run import Run
from console.command_line import InputError
from console.signals import Interrupted


# Ten batches of which the last is filled up, in four stretches.
SEVERAL = [*TINY, "--train-size", 300, "--batch-size", 31, "--epochs", 2]

needs_grain = pytest.mark.skipif(
    importlib.util.find_spec("grain") is None, reason="needs the extra stream"
)


def told(folder: Path) -> list[dict]:
    """The metrics, without what the clock and the compiler say."""
    return [
        {name: x for name, x in record.items() if name != "temporary_bytes"}
        for record in numbers(folder)
    ]


class Reads:
    """Counts which images are read."""

    def __init__(self, records: Any):
        self.records = records
        self.places: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: Any) -> Any:
        self.places.append(indices.tolist())
        return self.records.read(indices)


@needs_grain
@pytest.mark.slow
def test_stream_trains_to_the_bits_of_images_in_memory(tmp_path, monkeypatch):
    """Whole, and stopped in the middle of an epoch and gone on with in either way."""
    monkeypatch.setattr(streaming, "STRETCH_BYTES", 3 * 31 * 784)
    held = jaxode.datasets.load_records("digits")
    reads = Reads(held.train)
    records = jaxode.datasets.RecordSet("digits", reads, held.test)
    monkeypatch.setattr(jaxode.datasets, "load_records", lambda *_, **__: records)

    train(*SEVERAL, "--out", tmp_path / "held")
    train(*SEVERAL, "--out", tmp_path / "streamed", "--stream")
    assert arrays(tmp_path / "streamed") == arrays(tmp_path / "held")
    assert told(tmp_path / "streamed") == told(tmp_path / "held")
    # All of it once for its hash, then ten batches of 31 for each epoch and no more.
    hashed = [places for places in reads.places if len(places) > 3 * 31]
    assert sum(map(len, hashed)) == len(held.train)
    read = [places for places in reads.places if len(places) <= 3 * 31]
    assert sum(map(len, read)) == 2 * 310
    assert max(i for places in read for i in places) < 300

    def stop(run: Run, state: Any, part: Any) -> None:
        if part.row >= 4:
            run.save(state, part)
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "after_rows", stop)
        with pytest.raises(Interrupted):
            train(*SEVERAL, "--out", tmp_path / "parts", "--stream")
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    config = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert config["settings"]["stream"] is True
    reads.places.clear()
    assert "in epoch 1, after " in train("--resume", tmp_path / "parts")
    assert sum(map(len, reads.places)) < len(held.train) + 2 * 310
    train("--resume", tmp_path / "other", "--no-stream")
    for name in ("parts", "other"):
        assert arrays(tmp_path / name) == arrays(tmp_path / "held")
        assert told(tmp_path / name) == told(tmp_path / "held")


@needs_grain
@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_stream_gives_several_devices_and_processes_the_same_batches(tmp_path):
    """Sixteen rows of each batch on each of two devices, in one process or in two."""
    run = Runner(tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    run(*SEVERAL, "--out", "held")
    run(*SEVERAL, "--out", "streamed", "--stream", script=streamed.__file__)
    options = [*SEVERAL, "--out", "processes", "--stream"]
    with processes(tmp_path, *options, script=streamed.__file__) as started:
        for process in started:
            assert process.wait(300) == 0, process.stderr.read()
    for name in ("streamed", "processes"):
        assert arrays(tmp_path / name) == arrays(tmp_path / "held")
        assert told(tmp_path / name) == told(tmp_path / "held")
        assert len(metrics(tmp_path / name)) == 2


def test_stream_without_grain_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    without = lambda name: None if name == "grain" else found(name)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(InputError, match=r"--stream needs Grain: .*jaxode\[stream\]"):
        train(*SEVERAL, "--out", tmp_path / "run", "--stream")
    assert not (tmp_path / "run").exists()
