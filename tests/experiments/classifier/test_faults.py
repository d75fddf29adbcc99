"""Full disks, folders that cannot be written, files of other runs: a line says it."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from runs import arrays, content, header, metrics, numbers, TINY, train

import mnist
from classifier import run
from classifier.checkpoint import load_state, read_checkpoint
from classifier.config import Config
from classifier.run_folder import read_run
from classifier.setup import build_model, build_optimiser
from console import host_memory
from console.command_line import InputError
from jaxode.training import TrainState


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(*TINY, "--epochs", 3, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(*TINY, "--epochs", 1, "--out", folder)
    return folder


@pytest.fixture
def folder(one_epoch, tmp_path) -> Path:
    """A run of one epoch, to be hurt."""
    shutil.copytree(one_epoch, tmp_path / "run")
    return tmp_path / "run"


def resume(folder: Path) -> str:
    return train("--resume", folder, "--epochs", 3)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Disks


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("error", [FULL, READ_ONLY], ids=["full", "read-only"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("after", [1, 3])
def test_checkpoint_that_cannot_be_written_stops_the_run_and_the_old_one_stays(
    whole, folder, monkeypatch, call, error, after
):
    real, count = getattr(os, call), 0

    def fail(source, *rest):
        nonlocal count
        count += "checkpoint.eqx" in str(source) if call == "replace" else 1
        if count > after:
            raise error
        return real(source, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        message = rf"(checkpoint.eqx cannot .*\({error.strerror}|{error.strerror}: '/)"
        with pytest.raises(InputError, match=message):
            resume(folder)
    assert not list(folder.glob(".*.tmp"))
    assert header(folder)["epoch"] >= 1
    resume(folder)
    assert arrays(folder) == arrays(whole) and numbers(folder) == numbers(whole)


def test_metrics_that_cannot_be_written_are_made_good(whole, folder, monkeypatch):
    def fail(self, record):
        with self.metrics.open("a") as file:
            file.write(json.dumps(record)[:40])
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr(run.RunFolder, "append", fail)
        with pytest.raises(InputError, match="No space left on device"):
            resume(folder)
    with pytest.raises(json.JSONDecodeError):
        metrics(folder)
    resume(folder)
    assert arrays(folder) == arrays(whole) and numbers(folder) == numbers(whole)


def test_figure_that_cannot_be_written_is_told_of_and_all_else_is_done(
    whole, folder, monkeypatch
):
    def fail(*arguments):
        raise FULL

    monkeypatch.setattr(run, "draw_curves", fail)
    assert "curves.png cannot be written (No space left" in resume(folder)
    assert arrays(folder) == arrays(whole)


def test_folder_in_which_nothing_can_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise READ_ONLY

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match="--out .* cannot be written: Read-only file"):
        mnist.main([*TINY, "--out", str(tmp_path / "run")])


def test_leftovers_of_killed_runs_are_removed(folder):
    (folder / ".checkpoint.eqx.abcd.tmp").write_bytes(b"half")
    resume(folder)
    assert not list(folder.glob(".*.tmp"))


def test_leftovers_of_a_start_that_was_killed_are_removed(tmp_path):
    (tmp_path / ".config.json.abcd.tmp").write_bytes(b"half")
    with run.Run.open(Config(out=tmp_path, quiet=True)):
        assert not list(tmp_path.glob(".*.tmp"))


# Files of other runs, or gone


def test_checkpoint_of_another_run_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    train(*TINY, "--epochs", 1, "--out", other)
    shutil.copy(other / "checkpoint.eqx", folder / "checkpoint.eqx")
    for form in ("--resume", "evaluate"):
        with pytest.raises(InputError, match="eqx is of another run than .*config"):
            mnist.main([form, str(folder)])


@pytest.mark.parametrize("form", ["--resume", "evaluate"])
def test_checkpoint_of_another_data_set_is_refused(folder, form):
    edit(folder / "config.json", dataset="mnist")
    with pytest.raises(InputError, match="trained on digits and by .* is on mnist"):
        mnist.main([form, str(folder)])


@pytest.mark.parametrize("form", ["--resume", "evaluate"])
def test_other_images_of_the_same_name_are_refused(folder, form):
    edit(folder / "config.json", data_sha256="0" * 64)
    with pytest.raises(InputError, match="was trained on another digits"):
        mnist.main([form, str(folder)])


def test_run_whose_checkpoint_is_gone_is_not_begun_again(folder):
    (folder / "checkpoint.eqx").unlink()
    before = content(folder)
    with pytest.raises(InputError, match="(?s)checkpoint.eqx is gone.*before it is go"):
        resume(folder)
    assert content(folder) == before
    (folder / "previous.eqx").unlink()
    with pytest.raises(InputError, match="is gone.\nThere is none before it. Start"):
        resume(folder)


def test_checkpoint_that_another_command_replaces_meanwhile_is_not_believed(folder):
    run_folder, config, about = read_run(folder)
    saved = read_checkpoint(run_folder, config, about)
    assert saved is not None
    state = TrainState.create(build_model(config), build_optimiser(config, 2))
    load_state(run_folder, state, saved, 2)
    with pytest.raises(InputError, match="has 2 training steps, and .* should be 3"):
        load_state(run_folder, state, saved, 3)
    train("--resume", folder, "--epochs", 2)
    with pytest.raises(InputError, match="has been replaced since this command"):
        load_state(run_folder, state, saved, 2)


def test_checkpoint_made_with_other_settings_is_refused(folder):
    settings = json.loads((folder / "config.json").read_text())["settings"]
    edit(folder / "config.json", settings=settings | {"lr": 0.02})
    with pytest.raises(InputError, match="made with other settings than those in"):
        resume(folder)


def test_previous_checkpoint_that_was_put_in_place_ends_with_the_same_bits(
    whole, folder
):
    (folder / "checkpoint.eqx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a jaxode checkpoint") as raised:
        resume(folder)
    _, source, target = str(raised.value).splitlines()[-1].split()
    Path(source).rename(target)
    resume(folder)
    assert arrays(folder) == arrays(whole) and numbers(folder) == numbers(whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": "two"},
        {"epochs": None},
        {"epochs": True},
        {"solver": "foo"},
        {"rtol": float("nan")},
        {"nesterov": 1},
        {"data_dir": 3},
        {"batch_size": 1.5},
    ],
    ids=str,
)
def test_setting_of_the_wrong_kind_is_named(folder, changes):
    settings = json.loads((folder / "config.json").read_text())["settings"]
    edit(folder / "config.json", settings=settings | changes)
    for form in ("--resume", "evaluate"):
        with pytest.raises(InputError, match=r"config.json is damaged: .*[a-z]"):
            mnist.main([form, str(folder)])


def test_metrics_that_are_no_text_are_written_anew(whole, folder):
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\x00" * 9)
    resume(folder)
    assert numbers(folder) == numbers(whole)


def test_other_device_is_told_of_and_the_first_one_kept(folder):
    before = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", device="8 x another")
    printed = resume(folder)
    assert 'device "8 x another", now "1 x cpu' in printed
    about = json.loads((folder / "config.json").read_text())
    assert about["device"] == "8 x another"
    assert about["started"] == before["started"]
    assert [part["epoch"] for part in about["resumed"]] == [2]


# Trainings that fail


def test_training_that_fails_is_no_success_however_short(tmp_path):
    # One step is allowed, and more are needed; ten skipped ones in a row never come.
    options = [*TINY, "--epochs", "1", "--max-steps", "1", "--rtol", "1e-5"]
    message = "The training failed: all of the 2 updates were skipped; files in"
    with pytest.raises(InputError, match=message):
        mnist.main([*options, "--out", str(tmp_path / "run")])


def test_evaluation_that_fails_is_no_success(one_epoch):
    options = ["--max-steps", "1", "--rtol", "1e-6", "--atol", "1e-6"]
    message = "The evaluation failed: none of the 360 test images is right"
    with pytest.raises(InputError, match=message):
        mnist.main(["evaluate", str(one_epoch), *options])


def test_training_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    """Linux would end the process without a word when the memory is used."""
    monkeypatch.setattr(host_memory, "host_bytes", lambda: 1e5)
    start = [*TINY, "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match="^--channels 1024 needs .* Take fewer"):
        mnist.main([*start, "--channels", "1024"])
    with pytest.raises(InputError, match="^A training step needs .* GB of memory, and"):
        mnist.main(start)


def test_batch_larger_than_the_data_set_is_refused(tmp_path):
    message = "--batch-size must be at most 64, the images of digits to train on"
    with pytest.raises(InputError, match=message):
        mnist.main([*TINY, "--batch-size", "65", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
