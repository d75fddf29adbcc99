"""Runs whose arrays Orbax keeps."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from runs import first_line, numbers, TINY, train

from classifier.checkpoint import load_model
from classifier.run import Run
from classifier.run_folder import read_run
from console.command_line import InputError
from console.signals import Interrupted


ORBAX = [*TINY, "--epochs", 2, "--checkpoint-format", "orbax"]


def weights(path: Path) -> list[np.ndarray]:
    folder, config, _ = read_run(path)
    leaves = jax.tree.leaves(load_model(folder, config))
    return [np.asarray(x) for x in leaves if isinstance(x, jax.Array)]


def test_orbax_that_is_missing_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    without = lambda name: None if name == "orbax.checkpoint" else found(name)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(InputError, match=r"orbax needs Orbax: .*jaxode\[orbax\]"):
        train(*ORBAX, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_kept_by_orbax_has_the_bits_of_one_in_a_file(tmp_path, monkeypatch):
    """Whole, and stopped in an epoch and gone on with in either format."""
    pytest.importorskip("orbax.checkpoint", reason="needs the extra orbax")
    train(*TINY, "--epochs", 2, "--out", tmp_path / "file")
    expected = weights(tmp_path / "file")

    def stop(run: Run, state: Any, part: Any) -> None:
        run.save(state, part)
        raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "after_rows", stop)
        with pytest.raises(Interrupted):
            train(*ORBAX, "--batch-size", 8, "--out", tmp_path / "parts")
    assert "in epoch 1, after 2 steps" in train("--resume", tmp_path / "parts")
    kept = len(list((tmp_path / "parts").glob("*.orbax")))
    assert kept == 2  # of the last checkpoint and of the one before it
    train(*TINY, "--epochs", 2, "--batch-size", 8, "--out", tmp_path / "smaller")
    smaller = weights(tmp_path / "smaller")
    for one, other in zip(weights(tmp_path / "parts"), smaller, strict=True):
        np.testing.assert_array_equal(one, other)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "smaller")

    train(*ORBAX, "--epochs", 1, "--out", tmp_path / "turned")
    train("--resume", tmp_path / "turned", "--epochs", 2, "--checkpoint-format", "file")
    assert first_line(tmp_path / "turned")["version"] == 2
    for one, other in zip(weights(tmp_path / "turned"), expected, strict=True):
        np.testing.assert_array_equal(one, other)

    # The last one is damaged: refused, and the one before it offered.
    (folder,) = (tmp_path / "parts").glob(first_line(tmp_path / "parts")["folder"])
    victim = max(folder.rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(
        InputError, match="is damaged: (.|\n)*The one before it is good"
    ):
        train("--resume", tmp_path / "parts", "--epochs", 3)
