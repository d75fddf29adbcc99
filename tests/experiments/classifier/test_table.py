"""Rows of runs that differ by their seed, and settings that reach the network."""

import dataclasses
from statistics import stdev
from typing import Any

import equinox as eqx
import pytest
from runs import record

import mnist
from classifier.config import Config
from classifier.run_folder import RunFolder
from classifier.setup import build_model
from console.command_line import InputError
from jaxode.nn import PaperNet


def write_run(folder, right, **settings):
    """A run of two epochs that was never trained."""
    folder.mkdir()
    run = RunFolder(folder)
    run.write_config(Config(**settings), dataset="digits", parameters=10_564)
    for epoch in (1, 2):
        run.append(record(epoch, test_accuracy=right, train_seconds=4.0 - epoch))
    return str(folder)


def test_seeds_are_put_into_one_row(tmp_path):
    runs = [write_run(tmp_path / f"a{s}", 0.9 + s / 100, seed=s) for s in (0, 1, 2)]
    runs.insert(1, write_run(tmp_path / "b", 0.5, steer=0.25))
    out = ["--out", str(tmp_path / "table")]
    first, second = mnist.main(["table", *runs, "--seeds", *out])
    assert (first["runs"], second["runs"]) == (3, 1)
    assert first["accuracy"] == pytest.approx(0.91)
    assert first["accuracy_deviation"] == pytest.approx(stdev([0.9, 0.91, 0.92]))
    assert second["accuracy_deviation"] is None
    assert second["model"] == "odenet, dopri5, rtol 0.1, atol 0.1, steer 0.25"
    assert first["seconds_per_epoch"] == 2.5
    assert first["bytes"] is None


def test_folders_without_an_epoch_are_named(tmp_path):
    with pytest.raises(InputError, match="table needs the folder of at least one run"):
        mnist.main(["table"])
    folder = tmp_path / "run"
    folder.mkdir()
    RunFolder(folder).write_config(Config(), dataset="digits", parameters=1)
    with pytest.raises(InputError, match="run has no epoch yet: .*metrics.jsonl"):
        mnist.main(["table", str(folder)])


def test_options_reach_the_network():
    config = Config(augment=2, t1=2.0, learn_t1=True, kinetic=0.5, time=True)
    model = eqx.filter_eval_shape(build_model, config)
    assert model.block.field.conv.weight.shape == (8, 9, 3, 3)
    assert (model.augment, model.block.t1, model.regularisers.kinetic) == (2, 2.0, 0.5)
    assert model.block.end_time is not None
    paper = mnist.read_settings(["--model", "paper", "--zero-init"])
    model = build_model(dataclasses.replace(paper, channels=2))
    assert isinstance(model, PaperNet)
    field: Any = model.block.field
    assert not field.norm3.weight.any() and field.norm2.weight.all()


def test_one_step_is_as_long_as_the_whole_way():
    config = mnist.read_settings(["--model", "rknet", "--t1", "2.5"])
    model = eqx.filter_eval_shape(build_model, config)
    settings = model.block.settings
    assert (settings.dt0, settings.rtol, settings.max_steps) == (2.5, None, 1)
