"""Whole runs of the experiment on a few digits, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parent.parent / "experiments" / "mnist.py"
# Two channels and two batches: what counts here is the way, not the accuracy.
TINY = "--dataset digits --train-size 64 --batch-size 32 --channels 2 --seed 3".split()
KEYS = """
    epoch dataset train_loss test_accuracy test_correct test_total nfe_forward
    nfe_backward rejected_steps skipped_steps train_seconds test_seconds compile_seconds
    images_per_second
""".split()


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Compiled code is shared between the processes, and kept from the user's cache."""
    cache = tmp_path_factory.mktemp("xla")
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture
def run(environment, tmp_path):
    """Runs the script in an empty folder."""

    def run(*arguments, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def arrays(folder: Path) -> str:
    """Hash of all arrays in the last checkpoint."""
    with (folder / "checkpoint.eqx").open("rb") as file:
        return json.loads(file.readline())["sha256"]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def numbers(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    return [
        {name: value for name, value in record.items() if "second" not in name}
        for record in metrics(folder)
    ]


def test_run_writes_its_folder_and_can_be_resumed_and_evaluated(run, tmp_path):
    done = run(*TINY, "--epochs", 2, "--out", "whole")
    whole = tmp_path / "whole"
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(line.startswith("device ") for line in lines)
    assert any("digits" in line and "64 images to train on" in line for line in lines)
    assert any(line.startswith("parameters ") for line in lines)
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert lines[-1].startswith("digits: test ") and lines[-1].endswith("in whole/")
    records = metrics(whole)
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert set(KEYS) <= set(record)
        assert (record["dataset"], record["test_total"]) == ("digits", 360)
        assert record["nfe_forward"] > 0 and record["nfe_backward"] > 0
        assert record["test_accuracy"] == record["test_correct"] / 360
    assert records[0]["compile_seconds"] > 0 == records[1]["compile_seconds"]
    config = json.loads((whole / "config.json").read_text())
    assert config["dataset"] == "digits" and config["settings"]["channels"] == 2
    assert {"jax", "diffrax", "equinox", "optax", "python"} <= set(config["versions"])
    assert {"device", "git_commit"} <= set(config)
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(whole.glob(".*"))

    # One epoch and a resumed one are the same two, to the bit.
    run(*TINY, "--epochs", 1, "--out", "parts")
    parts = tmp_path / "parts"
    assert arrays(parts) != arrays(whole)
    resumed = run("--resume", "parts", "--epochs", 2)
    assert "after epoch 1" in resumed.stdout
    assert arrays(parts) == arrays(whole)
    assert numbers(parts) == numbers(whole)

    # Nothing is left to do, and nothing is done.
    before = {p.name: p.read_bytes() for p in parts.glob("*eqx")}
    again = run("--resume", "parts", "--quiet")
    assert len(again.stdout.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in parts.glob("*eqx")} == before
    assert numbers(parts) == numbers(whole)

    # A line that is missing, as after a kill between checkpoint and line.
    text = (parts / "metrics.jsonl").read_text()
    (parts / "metrics.jsonl").write_text(text.splitlines()[0] + "\n")
    run("--resume", "parts")
    assert (parts / "metrics.jsonl").read_text() == text

    refused_resumes(run, parts)
    scored_again(run, whole)


def refused_resumes(run, parts: Path) -> None:
    """What must not be gone on with; nothing is written then."""

    def refuse(message: str, *options) -> None:
        before = {p.name: p.read_bytes() for p in parts.iterdir()}
        done = run("--resume", "parts", *options, code=2)
        assert message in done.stderr and done.stderr.count("\n") == 1
        assert {p.name: p.read_bytes() for p in parts.iterdir()} == before

    refuse("made with other settings: --lr 0.05 (now 0.5)", "--lr", "0.5")
    refuse("--epochs may be raised", "--epochs", "1")
    refuse(
        "parts is not empty", *TINY, "--out", "parts", "--resume="
    ) if False else None
    checkpoint = parts / "checkpoint.eqx"
    content = checkpoint.read_bytes()
    for damaged, message in [
        (content[:-100], "checkpoint.eqx is truncated"),
        (b"\x89PNG\r\n", "checkpoint.eqx is not a jaxode checkpoint"),
        (content.replace(b'"version": 1', b'"version": 9', 1), "by a newer jaxode"),
        (content.replace(b'"shift": 1', b'"shift": 2', 1), "made with other settings"),
    ]:
        checkpoint.write_bytes(damaged)
        refuse(message, "--epochs", "3")
    checkpoint.write_bytes(content)


def scored_again(run, whole: Path) -> None:
    """`evaluate` gives the score of the run, and another with another solver."""
    last = metrics(whole)[-1]
    score = f"{last['test_accuracy']:.2%} ({last['test_correct']}/360)"
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    assert f"digits: test {score}" in run("evaluate", "whole", "--quiet").stdout
    finer = run(
        "evaluate", "whole", "--solver", "tsit5", "--rtol", 1e-5, "--atol", 1e-5
    )
    assert "tsit5, rtol 1e-05" in finer.stdout and "/360)" in finer.stdout
    fixed = run("evaluate", "whole", "--solver", "rk4", "--fixed-steps", "--dt0", 0.25)
    assert "steps of 0.25" in fixed.stdout
    assert "field calls 16.0 per solve" in fixed.stdout
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before
