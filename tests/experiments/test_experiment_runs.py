"""Whole runs of the experiment on a few digits, each in a process of its own."""

import json
import re
import shutil
from pathlib import Path

import mnist
import pytest
from _command_line import InputError
from experiment_runner import arrays, content, metrics, numbers, Runner, TINY


KEYS = """
    epoch dataset train_loss test_accuracy test_correct test_total nfe_forward
    nfe_backward rejected_steps skipped_steps train_seconds test_seconds compile_seconds
    images_per_second
""".split()


@pytest.fixture(autouse=True)
def _flags_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command may do to its process would reach every test after this one."""
    monkeypatch.setattr(mnist, "set_xla_cpu_flags", lambda: None)
    monkeypatch.setattr(mnist, "use_one_thread_if_small", lambda *_: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(run) -> tuple[Path, str]:
    """Two epochs without interruption: the folder, and what was printed."""
    done = run(*TINY, "--epochs", 2, "--out", "whole")
    assert done.stderr == ""
    return run.folder / "whole", done.stdout


@pytest.fixture(scope="module")
def parts(run) -> Path:
    """One epoch and a resumed one."""
    run(*TINY, "--epochs", 1, "--out", "parts")
    shutil.copytree(run.folder / "parts", run.folder / "one_epoch")
    done = run("--resume", "parts", "--epochs", 2)
    assert "after epoch 1" in done.stdout
    return run.folder / "parts"


def test_run_prints_one_line_for_everything(whole):
    _, printed = whole
    lines = printed.splitlines()
    assert lines[0].startswith("device ")
    assert "digits" in lines[1] and "64 images to train on, 360 test" in lines[1]
    assert "NOT MNIST" in lines[1]
    assert re.fullmatch(r"parameters +[\d,]+", lines[2])
    assert re.search(r"compiled +in [\d.]+ s", printed)
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert lines[-1].startswith("digits: test ") and lines[-1].endswith("in whole/")


def test_run_leaves_its_files_and_no_others(whole):
    folder, _ = whole
    assert sorted(content(folder)) == [
        "checkpoint.eqx",
        "config.json",
        "curves.png",
        "metrics.jsonl",
    ]
    assert content(folder)["curves.png"].startswith(b"\x89PNG")


def test_config_says_where_the_numbers_come_from(whole):
    config = json.loads(content(whole[0])["config.json"])
    assert config["dataset"] == "digits" and config["settings"]["channels"] == 2
    assert {"jax", "diffrax", "equinox", "optax", "python"} <= set(config["versions"])
    assert {"device", "git_commit", "parameters"} <= set(config)


def test_metrics_have_one_object_per_epoch(whole):
    records = metrics(whole[0])
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert set(KEYS) <= set(record)
        assert (record["dataset"], record["test_total"]) == ("digits", 360)
        assert record["test_accuracy"] == record["test_correct"] / 360
        assert record["nfe_forward"] >= 2 and record["nfe_backward"] >= 2
        assert record["skipped_steps"] == record["failed_solves"] == 0
    # Compilation is over before the first epoch, and in its line only.
    assert records[0]["compile_seconds"] > 0 == records[1]["compile_seconds"]


def test_resume_equals_uninterrupted_run_bit_for_bit(run, whole, parts):
    assert arrays(run.folder / "one_epoch") != arrays(whole[0])
    assert arrays(parts) == arrays(whole[0])
    assert numbers(parts) == numbers(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["backsolve", "checkpoint"])
def test_resume_equals_uninterrupted_run_with_the_default_solver(run, adjoint):
    options = [*TINY, "--solver", "dopri5", "--adjoint", adjoint]
    run(*options, "--epochs", 2, "--out", f"whole-{adjoint}")
    run(*options, "--epochs", 1, "--out", f"parts-{adjoint}")
    run("--resume", f"parts-{adjoint}", "--epochs", 2)
    assert arrays(run.folder / f"parts-{adjoint}") == arrays(
        run.folder / f"whole-{adjoint}"
    )
    assert numbers(run.folder / f"parts-{adjoint}") == numbers(
        run.folder / f"whole-{adjoint}"
    )


def test_resume_of_a_finished_run_restores_what_is_missing(run, parts):
    shutil.copytree(parts, run.folder / "finished")
    folder = run.folder / "finished"
    before = content(folder)
    # As after a kill between the checkpoint and the line, and before the picture.
    (folder / "metrics.jsonl").write_bytes(before["metrics.jsonl"].split(b"\n")[0])
    (folder / "curves.png").unlink()
    done = run("--resume", "finished", "--quiet")
    assert len(done.stdout.splitlines()) == 1
    after = content(folder)
    assert after["metrics.jsonl"] == before["metrics.jsonl"]
    assert after["checkpoint.eqx"] == before["checkpoint.eqx"]
    assert after["curves.png"].startswith(b"\x89PNG")


DAMAGE = {
    "truncated": lambda old: old[:-100],
    "not a jaxode checkpoint": lambda old: b"\x89PNG\r\n\x1a\n",
    "written by a newer jaxode": lambda old: old.replace(b'on": 1', b'on": 9', 1),
    "made with other settings": lambda old: old.replace(b'ft": 1', b'ft": 2', 1),
}


@pytest.mark.parametrize("form", ["--resume", "evaluate"])
@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_checkpoint_is_named_and_left_alone(
    parts, tmp_path, monkeypatch, message, form
):
    monkeypatch.setattr("_compilation_cache.use_compilation_cache", lambda: None)
    folder = tmp_path / "damaged"
    shutil.copytree(parts, folder)
    checkpoint = folder / "checkpoint.eqx"
    checkpoint.write_bytes(DAMAGE[message](checkpoint.read_bytes()))
    before = content(folder)
    epochs = ["--epochs", "3"] if form == "--resume" else []
    with pytest.raises(InputError, match=f"damaged/checkpoint.eqx .*{message}"):
        mnist.main([form, str(folder), *epochs])
    assert content(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.5", "--seed", "4"], r"--lr 0.05 \(now 0.5\), --seed 3 \(now 4\)"),
        (["--preset", "post"], r"--preset default \(now post\)"),
        (["--epochs", "1"], "--epochs may be raised"),
        (["--out", "elsewhere"], "name different folders"),
    ],
)
def test_resume_with_other_settings_names_them(parts, monkeypatch, options, message):
    monkeypatch.setattr("_compilation_cache.use_compilation_cache", lambda: None)
    before = content(parts)
    with pytest.raises(InputError, match=message):
        mnist.main(["--resume", str(parts), *options])
    assert content(parts) == before


def test_folder_of_a_run_is_not_trained_into_again(parts, monkeypatch):
    monkeypatch.setattr("_compilation_cache.use_compilation_cache", lambda: None)
    before = content(parts)
    with pytest.raises(InputError, match="is not empty"):
        mnist.main([*TINY, "--out", str(parts)])
    assert content(parts) == before


def test_data_that_cannot_be_had_leave_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("_compilation_cache.use_compilation_cache", lambda: None)
    (tmp_path / "empty").mkdir()
    options = ["--dataset", "mnist", "--data-dir", str(tmp_path / "empty")]
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz is missing"):
        mnist.main([*options, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_evaluate_gives_the_score_of_the_run(run, whole):
    folder, _ = whole
    last, before = metrics(folder)[-1], content(folder)
    score = f"test {last['test_accuracy']:.2%} ({last['test_correct']}/360)"
    assert f"digits: {score}" in run("evaluate", "whole", "--quiet").stdout
    assert content(folder) == before


def test_evaluate_takes_another_solver(run, whole):
    options = ["--solver", "rk4", "--fixed-steps", "--dt0", "0.25"]
    printed = run("evaluate", "whole", *options).stdout
    assert "rk4, steps of 0.25" in printed
    # Four steps of four calls.
    assert "field calls 16.0 per solve" in printed


def test_updates_that_fail_stop_the_run(run):
    done = run(*TINY, "--max-steps", 1, "--dt0", 1e-3, "--out", "stopped", code=2)
    assert "Stopped in epoch 5: 10 updates in a row were skipped" in done.stderr
    assert "--max-steps" in done.stderr and done.stderr.count("\n") == 2
    folder = run.folder / "stopped"
    # Two steps an epoch: the tenth is the last of the fifth.
    assert [record["skipped_steps"] for record in metrics(folder)] == [2] * 4
    assert [record["train_loss"] for record in metrics(folder)] == [None] * 4
    assert "SKIPPED 2 updates" in done.stdout
    assert arrays(folder, "stopped.eqx")
