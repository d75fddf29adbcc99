"""What a run writes, and whether another may be gone on with in its place."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from runs import record

from classifier.checkpoint import read_checkpoint
from classifier.checks import check_resumed
from classifier.config import ADDED, Config
from classifier.fingerprint import fingerprint
from classifier.run_folder import read_run, read_settings, RunFolder, stored_settings
from console.command_line import InputError
from jaxode.datasets import Dataset, Split


def test_settings_come_back_from_config_json(tmp_path):
    config = Config(adjoint="direct", dt0=0.25, data_dir=Path("here"), train_size=7)
    folder = RunFolder(tmp_path)
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


def test_settings_of_the_first_version_are_read():
    settings = stored_settings(Config(lr=0.5))
    for name in ADDED:
        del settings[name]
    assert read_settings(settings, Path("config.json")) == Config(lr=0.5)


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


@pytest.mark.parametrize("name", ["previous.eqx", "metrics.jsonl"])
def test_run_of_which_either_file_is_left_has_lost_its_checkpoint(tmp_path, name):
    folder = RunFolder(tmp_path)
    assert read_checkpoint(folder, Config(), {}) is None
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(InputError, match="checkpoint.eqx is gone"):
        read_checkpoint(folder, Config(), {})


def test_every_part_of_a_data_set_decides_its_hash():
    images, labels = np.zeros((3, 28, 28, 1), np.uint8), np.zeros(3, np.int32)
    usual = Split(images, labels)
    others = [Split(images + np.uint8(1), labels), Split(images, labels + np.int32(1))]
    sets = [("mnist", usual, usual), ("kmnist", usual, usual)]
    sets += [("mnist", other, usual) for other in others]
    sets += [("mnist", usual, other) for other in others]
    hashes = {fingerprint(Dataset(*content)) for content in sets}
    assert len(hashes) == len(sets) == 6


def test_resumed_run_must_have_the_settings_it_had():
    stored = Config()
    resumed = dataclasses.replace(stored, resume=Path("run"), lr=0.1, channels=2)
    message = r"run was made.*: --lr 0.05 \(now 0.1\), --channels 6 \(now 2\)\. Resume"
    with pytest.raises(InputError, match=message.replace("--lr", ".*--lr")):
        check_resumed(resumed, stored, 1)


def test_resumed_run_may_have_any_epochs_but_those_that_it_has_begun():
    # Fewer too: a typing error, `--epochs 1000`, can be taken back.
    stored = Config(epochs=1000)
    fewer = Config(epochs=4, resume=Path("run"), quiet=True, data_dir=Path("there"))
    check_resumed(fewer, stored, 3)
    check_resumed(dataclasses.replace(fewer, epochs=3), stored, 3)
    with pytest.raises(InputError, match="2 is below the 3 that run has begun"):
        check_resumed(dataclasses.replace(fewer, epochs=2), stored, 3)


def test_resumed_run_stays_in_its_folder():
    config = Config(resume=Path("run"), out=Path("other"))
    with pytest.raises(InputError, match="--out and --resume name different folders"):
        check_resumed(config, Config(), 0)
