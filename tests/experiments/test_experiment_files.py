"""What the experiment writes and shows, without training anything."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from _command_line import check_resumed, InputError
from _config import Config
from _loop import on_host
from _plots import draw_curves
from _report import epoch_line
from _run_folder import read_run, read_settings, RunFolder, stored_settings

import jaxode


def record(epoch: int, **changes) -> dict:
    """One object of `metrics.jsonl`."""
    values = {
        "epoch": epoch,
        "dataset": "digits",
        "scored_on": "test",
        "train_loss": 1.0 / epoch,
        "test_loss": 0.9 / epoch,
        "test_accuracy": 0.975,
        "test_correct": 351,
        "test_total": 360,
        "test_failed_solves": 0,
        "nfe_forward": 14.0,
        "nfe_backward": 21.5,
        "skipped_steps": 0,
        "train_seconds": 3.25,
        "test_seconds": 0.125,
    }
    return values | changes


# The folder of a run


def test_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty.*notes.txt.*nothing is overwri"):
        RunFolder.create(tmp_path, "backsolve")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_leftover_of_a_killed_start_is_no_content(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("{")
    assert RunFolder.create(tmp_path, "backsolve").path == tmp_path


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out .*file/run cannot be written: Not a"):
        RunFolder.create(tmp_path / "file" / "run", "backsolve")


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    first, second = (RunFolder.create(None, "direct").path for _ in range(2))
    assert str(first) == "runs/20260101-000000-direct"
    assert str(second) == "runs/20260101-000000-direct-2"


def test_settings_come_back_from_config_json(tmp_path):
    config = Config(adjoint="direct", dt0=0.25, data_dir=Path("here"), train_size=7)
    folder = RunFolder.create(tmp_path / "run", "direct")
    folder.write_config(config, dataset="digits")
    _, stored, content = read_run(folder.path)
    assert stored == config
    assert content["dataset"] == "digits"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"settings": 3, "dataset": "digits"}']
)
def test_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json is damaged"):
        read_run(tmp_path)


def test_settings_of_another_version_are_named():
    settings = stored_settings(Config()) | {"dropout": 0.5}
    del settings["shift"]
    with pytest.raises(InputError, match="differs in the settings dropout, shift"):
        read_settings(settings, Path("config.json"))


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_metrics_are_made_to_match_the_checkpoint(tmp_path, lines):
    # Killed before the line of the second epoch, or a line that was not checkpointed.
    folder = RunFolder(tmp_path)
    for epoch in range(1, lines + 1):
        folder.append(record(epoch))
    history = [record(1), record(2)]
    folder.restore_metrics(history)
    found = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert found == history


def test_resumed_run_must_have_the_settings_it_had():
    stored = Config()
    resumed = dataclasses.replace(stored, resume=Path("run"), lr=0.1, channels=2)
    message = r"run was made.*: --lr 0.05 \(now 0.1\), --channels 6 \(now 2\)\. Resume"
    with pytest.raises(InputError, match=message.replace("--lr", ".*--lr")):
        check_resumed(resumed, stored, 1)


def test_resumed_run_may_have_more_epochs_and_not_fewer():
    stored = Config(epochs=3)
    more = Config(epochs=4, resume=Path("run"), quiet=True, data_dir=Path("there"))
    check_resumed(more, stored, 3)
    with pytest.raises(InputError, match="2 is below the 3 of run"):
        check_resumed(dataclasses.replace(more, epochs=2), stored, 1)


def test_resumed_run_stays_in_its_folder():
    config = Config(resume=Path("run"), out=Path("other"))
    with pytest.raises(InputError, match="--out and --resume name different folders"):
        check_resumed(config, Config(), 0)


# What is shown


def test_line_of_an_epoch_shows_what_was_skipped():
    line = epoch_line(record(2, skipped_steps=3, test_failed_solves=1), 10)
    for part in (
        "epoch  2/10",
        "digits",
        "0.5000",
        "test 97.50% (351/360)",
        "14.0 f",
    ):
        assert part in line
    for part in (
        "21.5 backward",
        "train 3.2 s",
        "test 0.12 s",
        "SKIPPED 3",
        "1 SOLVE",
    ):
        assert part in line
    assert "SKIPPED" not in epoch_line(record(2), 10)


def test_loss_that_is_not_finite_is_null():
    zeros = jaxode.training.Metrics.zeros()
    assert on_host(zeros)["loss"] is None
    infinite = dataclasses.replace(
        zeros, loss_sum=jnp.asarray(jnp.inf), total=jnp.asarray(1, jnp.int32)
    )
    assert on_host(infinite)["loss"] is None


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_are_drawn_with_gaps(tmp_path, epochs):
    history = [record(epoch) for epoch in range(1, epochs + 1)]
    history[-1]["train_loss"] = None
    draw_curves(history, "digits, backsolve", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
