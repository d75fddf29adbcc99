"""Whole runs of `mnist.py` on a few digits, in this process."""

import json
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest
from runs import arrays, content, metrics, numbers, TINY, train

import jaxode
import mnist
from console.command_line import InputError


KEYS = """
    epoch dataset train_loss test_accuracy test_correct test_total nfe_forward
    nfe_backward rejected_steps skipped_steps train_seconds test_seconds compile_seconds
    images_per_second
""".split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    """Two epochs without interruption: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(*TINY, "--epochs", 2, "--out", folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """One epoch, kept in `one_epoch` beside it, and a resumed one."""
    folder = tmp_path_factory.mktemp("runs") / "parts"
    train(*TINY, "--epochs", 1, "--out", folder)
    shutil.copytree(folder, folder.with_name("one_epoch"))
    assert "after epoch 1" in train("--resume", folder, "--epochs", 2)
    return folder


def test_run_prints_one_line_for_everything(whole):
    folder, printed = whole
    lines = printed.splitlines()
    assert lines[0].startswith("device ")
    assert "digits" in lines[1] and "64 images to train on, 360 test" in lines[1]
    assert "NOT MNIST" in lines[1]
    assert re.fullmatch(r"parameters +[\d,]+", lines[2])
    assert re.search(r"compiled +in [\d.]+ s", printed)
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert lines[-1].startswith("digits: test ") and lines[-1].endswith(f"in {folder}/")


def test_run_leaves_its_files_and_no_others(whole):
    folder, _ = whole
    assert sorted(content(folder)) == [
        ".lock",
        "checkpoint.eqx",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "previous.eqx",
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


def test_resume_equals_uninterrupted_run_bit_for_bit(whole, parts):
    assert arrays(parts.with_name("one_epoch")) != arrays(whole[0])
    assert arrays(parts) == arrays(whole[0])
    assert numbers(parts) == numbers(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["backsolve", "checkpoint"])
def test_resume_equals_uninterrupted_run_with_the_default_solver(tmp_path, adjoint):
    options = [*TINY, "--solver", "dopri5", "--adjoint", adjoint]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*options, "--epochs", 2, "--out", whole)
    train(*options, "--epochs", 1, "--out", parts)
    train("--resume", parts, "--epochs", 2)
    assert arrays(parts) == arrays(whole)
    assert numbers(parts) == numbers(whole)


def test_resume_of_a_finished_run_restores_what_is_missing(parts, tmp_path):
    folder = tmp_path / "finished"
    shutil.copytree(parts, folder)
    before = content(folder)
    # As after a kill between the checkpoint and the line, and before the picture.
    (folder / "metrics.jsonl").write_bytes(before["metrics.jsonl"].split(b"\n")[0])
    (folder / "curves.png").unlink()
    assert len(train("--resume", folder, "--quiet").splitlines()) == 1
    after = content(folder)
    assert after["metrics.jsonl"] == before["metrics.jsonl"]
    assert after["checkpoint.eqx"] == before["checkpoint.eqx"]
    assert after["curves.png"].startswith(b"\x89PNG")


DAMAGE = {
    "truncated": lambda old: old[:-100],
    "not a jaxode checkpoint": lambda old: b"\x89PNG\r\n\x1a\n",
    "written by a newer jaxode": lambda old: old.replace(b'on": 2', b'on": 9', 1),
    "not have the hash it was saved with": lambda old: old.replace(
        b'ft": 1', b'ft": 2', 1
    ),
}


@pytest.mark.parametrize("form", ["--resume", "evaluate"])
@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_checkpoint_is_named_and_left_alone(parts, tmp_path, message, form):
    folder = tmp_path / "damaged"
    shutil.copytree(parts, folder)
    checkpoint = folder / "checkpoint.eqx"
    checkpoint.write_bytes(DAMAGE[message](checkpoint.read_bytes()))
    before = content(folder)
    epochs = ["--epochs", "3"] if form == "--resume" else []
    offered = "before it is good, in epoch 2, after 2 steps of it.*mv .*/previous.eqx"
    message = f"(?s)damaged/checkpoint.eqx .*{message}.*{offered}"
    with pytest.raises(InputError, match=message):
        mnist.main([form, str(folder), *epochs])
    assert content(folder) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.5", "--seed", "4"], r"--lr 0.01 \(now 0.5\), --seed 3 \(now 4\)"),
        (["--preset", "post"], r"--preset default \(now post\)"),
        (["--epochs", "1"], "--epochs may be changed .* 1 is below the 2 that"),
        (["--out", "elsewhere"], "name different folders"),
    ],
)
def test_resume_with_other_settings_names_them(parts, options, message):
    before = content(parts)
    with pytest.raises(InputError, match=message):
        mnist.main(["--resume", str(parts), *options])
    assert content(parts) == before


def test_folder_of_a_run_is_not_trained_into_again(parts):
    before = content(parts)
    with pytest.raises(InputError, match="is not empty"):
        mnist.main([*TINY, "--out", str(parts)])
    assert content(parts) == before


def test_data_that_cannot_be_had_leave_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    options = ["--dataset", "mnist", "--data-dir", str(tmp_path / "empty")]
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz is missing"):
        mnist.main([*options, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_evaluate_gives_the_score_of_the_run(whole):
    folder, _ = whole
    last, before = metrics(folder)[-1], content(folder)
    score = f"test {last['test_accuracy']:.2%} ({last['test_correct']}/360)"
    assert f"digits: {score}" in train("evaluate", folder, "--quiet")
    assert content(folder) == before


def test_evaluate_takes_another_solver(whole):
    options = ["--solver", "rk4", "--fixed-steps", "--dt0", "0.25"]
    printed = train("evaluate", whole[0], *options)
    assert "rk4, steps of 0.25" in printed
    # Four steps of four calls.
    assert "field calls 16.0 per solve" in printed


@pytest.mark.slow
@pytest.mark.parametrize("model", ["residual", "rknet", "paper-residual"])
def test_every_model_is_trained_and_scored(tmp_path, model):
    size = "--dataset digits --train-size 64 --batch-size 32 --channels 2".split()
    options = [*size, "--model", model, "--preset", "paper", "--epochs", 1]
    train(*options, "--out", tmp_path / "run")
    last = metrics(tmp_path / "run")[-1]
    score = f"test {last['test_accuracy']:.2%} ({last['test_correct']}/360)"
    assert score in train("evaluate", tmp_path / "run", "--quiet")


@pytest.mark.slow
def test_the_papers_recipe_is_resumed_to_the_same_bits(tmp_path):
    tiny = [*TINY, "--preset", "paper", "--batch-size", 32, "--epochs"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*tiny, 2, "--out", whole)
    train(*tiny, 1, "--decay-epochs", 2, "--out", parts)
    train("--resume", parts, "--epochs", 2)
    assert arrays(parts) == arrays(whole)


@pytest.mark.slow
def test_weights_are_scored_as_the_network_they_are(tmp_path, getkey):
    writer = pytest.importorskip("safetensors.numpy")
    # The post's solver has 30 right; one step of bosh3, the usual one, has 28.
    model = jaxode.nn.ODENet(2, key=getkey())
    path = tmp_path / "weights.safetensors"
    writer.save_file(jaxode.nn.to_torch(model), path)
    dataset = jaxode.datasets.load("digits")
    images, labels = map(jnp.asarray, dataset.test)
    scored = jaxode.training.evaluate(model, images, labels, batch_size=360)
    options = "--dataset digits --eval-batch-size 360 --quiet".split()
    assert f"({int(scored.correct)}/360)" in train("evaluate", path, *options)


def test_table_puts_runs_side_by_side(whole, parts, tmp_path):
    folder = tmp_path / "table"
    rows = mnist.main(["table", str(whole[0]), str(parts), "--out", str(folder)])
    last = metrics(whole[0])[-1]
    assert [row["run"] for row in rows] == ["whole", "parts"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] == last["test_accuracy"]
    assert rows[0]["bytes"] == last["temporary_bytes"] > 0
    assert content(folder)["table.png"].startswith(b"\x89PNG")
    lines = content(folder)["table.csv"].decode().splitlines()
    assert lines[0].startswith("run,model,dataset,runs,epochs,parameters,accuracy,")
    assert lines[1].startswith('whole,"odenet, heun, rtol 0.1, atol 0.1",digits,1,2,')


def test_updates_that_fail_stop_the_run(tmp_path, capsys):
    folder = tmp_path / "stopped"
    # A thousand steps would be needed, and one is allowed.
    steps = "--solver euler --fixed-steps --dt0 1e-3 --max-steps 1".split()
    options = [*TINY, *steps, "--out", str(folder)]
    message = "Stopped in epoch 5: 10 updates in a row were skipped.*--max-steps"
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        mnist.main(options)
    assert str(caught.value).count("\n") == 1
    # Two steps an epoch: the tenth is the last of the fifth.
    assert [record["skipped_steps"] for record in metrics(folder)] == [2] * 4
    assert [record["train_loss"] for record in metrics(folder)] == [None] * 4
    assert "SKIPPED 2 updates" in capsys.readouterr().out
    assert arrays(folder, "stopped.eqx")
