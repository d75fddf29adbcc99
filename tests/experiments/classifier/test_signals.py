"""Ctrl-C and kills: nothing is lost but the epoch that was being trained."""

import random
import signal
import statistics

import pytest
from runs import arrays, content, metrics, numbers, Runner, TINY

import mnist


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runs"))


def test_ctrl_c_ends_within_compilation(run):
    code, errors = run.interrupt(
        *TINY,
        *("--out", "stopped"),
        after_line="compiling",
        delay=0.5,
        how=signal.SIGINT,
    )
    assert code == 130
    script = mnist.__file__
    assert errors == f"Interrupted. Go on with: python {script} --resume stopped\n"
    assert sorted(content(run.folder / "stopped")) == [".lock", "config.json"]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(run):
    epochs = ("--epochs", 40)
    run(*TINY, *epochs, "--out", "calm")
    calm, killed = run.folder / "calm", run.folder / "killed"
    # In epochs and not in seconds: four kills are well before the end on any machine.
    took = [
        record["train_seconds"] + record["test_seconds"] for record in metrics(calm)
    ]
    epoch_seconds = statistics.median(took)
    rng = random.Random(0)
    arguments = (*TINY, *epochs, "--out", "killed")
    done_epochs = []
    for _ in range(4):
        delay = rng.uniform(0, 4) * epoch_seconds
        code, _ = run.interrupt(
            *arguments, after_line="epoch", delay=delay, how=signal.SIGKILL
        )
        assert code == -signal.SIGKILL
        arguments = ("--resume", "killed")
        done_epochs.append(len(metrics(killed)))
    # Killed while it was at work, not when it was over.
    assert done_epochs == sorted(done_epochs) and 0 < done_epochs[0] < 40
    run("--resume", "killed")
    assert arrays(killed) == arrays(calm)
    assert numbers(killed) == numbers(calm)


@pytest.mark.slow
def test_run_killed_before_its_first_epoch_starts_again(run):
    options = (*TINY, "--epochs", 2)
    run(*options, "--out", "calm-start")
    for line in ("device", "parameters", "compiled"):
        folder = run.folder / f"killed-at-{line}"
        arguments = (*options, "--out", folder.name)
        run.interrupt(*arguments, after_line=line, delay=0.0, how=signal.SIGKILL)
        has_config = (folder / "config.json").exists()
        run(*(("--resume", folder.name) if has_config else arguments))
        assert arrays(folder) == arrays(run.folder / "calm-start")
        assert numbers(folder) == numbers(run.folder / "calm-start")
