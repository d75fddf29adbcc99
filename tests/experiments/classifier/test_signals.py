"""Ctrl-C, SIGTERM, SIGHUP, closed pipes and kills: what was trained is kept."""

import json
import random
import signal
import statistics
import threading

import pytest
from runs import arrays, content, header, metrics, numbers, Runner, TINY

import mnist


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
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
def test_signals_save_what_is_done_and_runs_resume_to_the_same_bits(run):
    # One image a step: an epoch of 1,437 is many calls of half a second or less.
    options = [*TINY, "--train-size", 1437, "--batch-size", 1, "--epochs", 5]
    run(*options, "--out", "whole")
    arguments, parts = (*options, "--out", "signalled"), []
    for how in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        # One that comes before the first step has nothing to save, and ends at once.
        errors = ""
        for delay in (0.1, 0.2, 0.4):
            found, errors = run.interrupt(
                *arguments, after_line="compiled", delay=delay, how=how
            )
            arguments = ("--resume", "signalled")
            assert found == 128 + how, errors
            if errors.startswith("Stopping"):
                break
        first, last = errors.splitlines()
        assert first.startswith("Stopping once the running steps are saved")
        assert last.endswith("mnist.py --resume signalled")
        parts.append(header(run.folder / "signalled")["part"])
    # There is no part where a signal comes as an epoch ends.
    rows = [(part["epoch"], part["row"]) for part in parts if part is not None]
    assert rows == sorted(set(rows))
    run("--resume", "signalled")
    assert arrays(run.folder / "signalled") == arrays(run.folder / "whole")
    assert numbers(run.folder / "signalled") == numbers(run.folder / "whole")
    # Where each part was computed is all there.
    about = json.loads((run.folder / "signalled" / "config.json").read_text())
    assert set(rows) <= {(p["epoch"], p["row"]) for p in about["resumed"]}


@pytest.mark.slow
def test_output_that_nobody_reads_ends_training_with_the_state_saved(run):
    command = [*TINY, "--epochs", 5000, "--out", "unread"]
    with run.start(*command) as process:
        assert process.stdout.readline().startswith("device")
        process.stdout.close()
        assert process.wait(timeout=300) == 128 + signal.SIGPIPE
        first, last = process.stderr.read().splitlines()
    assert first == "Standard output was closed."
    assert last.endswith("mnist.py --resume unread")
    assert header(run.folder / "unread")["part"]["row"] > 0
    assert "after" in run("--resume", "unread", "--epochs", 2).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("<&- >&- 2>&-", ""),
        ("> /dev/full", "Standard output is left out: it cannot be written (No space"),
    ],
)
def test_output_that_cannot_be_written_is_left_out(run, where, said):
    folder = where.strip(" <>&-/").replace("/", "-") or "closed"
    done = run.redirected(where, *TINY, "--epochs", 1, "--out", folder)
    assert done.returncode == 0 and done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == (said != "")
    # None of it went into a file that was opened in its place.
    run("evaluate", folder, "--quiet")
    assert len(metrics(run.folder / folder)) == 1


@pytest.mark.slow
def test_second_process_on_a_folder_is_refused_until_the_first_is_gone(run):
    options = [*TINY, "--epochs", 100_000]
    with run.start(*options, "--out", "locked") as process:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        # One epoch: without the lock it would be refused too, and for another reason.
        resume = ["--resume", "locked", "--epochs", 1]
        for arguments in (resume, [*options, "--out", "locked"]):
            errors = run(*arguments, code=2).stderr
            assert "locked is in use by another process that trains there" in errors
        # Scoring reads whole files and needs no lock.
        run("evaluate", "locked", "--quiet")
        process.kill()
        process.wait()
        reader.join()
    # The lock is gone with the process.
    epochs = len(metrics(run.folder / "locked")) + 2
    run("--resume", "locked", "--epochs", epochs)


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
