"""Twenty epochs with a resume after each: nothing grows, and nothing is left behind."""

import gc
import os
from pathlib import Path

import jax
import jax.extend
import pytest
from runs import arrays, content, numbers, Runner, TINY, train


EPOCHS = 20
SHORTEST = "--solver euler --fixed-steps --dt0 0.5 --shift 0".split()
FILES = [
    ".lock",
    "checkpoint.eqx",
    "config.json",
    "curves.png",
    "metrics.jsonl",
    "previous.eqx",
]


def peak_bytes(run: Runner, *arguments: object) -> int:
    """The most memory that a command had, which must end well."""
    with run.start(*arguments, "--quiet") as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no account of a process")
def test_twenty_epochs_with_a_resume_after_each(tmp_path):
    run = Runner(tmp_path)
    folder, memory, programs = tmp_path / "soaked", [], []
    run(*TINY, *SHORTEST, "--epochs", 1, "--out", folder)
    for epochs in range(2, EPOCHS + 1):
        memory.append(peak_bytes(run, "--resume", folder, "--epochs", epochs))
        programs.append(len(list((tmp_path / "xla").glob("*-cache"))))
        assert sorted(content(folder)) == FILES
    assert len(set(programs)) == 1, programs
    # Observed with heun: 621 MB for the first, then 606 to 608.
    assert max(memory) < 1.05 * memory[0], [round(m / 1e6) for m in memory]
    run(*TINY, *SHORTEST, "--epochs", EPOCHS, "--out", "whole")
    assert arrays(folder) == arrays(tmp_path / "whole")
    assert numbers(folder) == numbers(tmp_path / "whole")


def kept_by_jax() -> dict[str, int]:
    """Compiled programs and arrays that are alive in this process."""
    gc.collect()
    programs = jax.extend.backend.get_backend().live_executables()
    return {"programs": len(programs), "arrays": len(jax.live_arrays())}


def train_resume_and_score(folder: Path) -> None:
    train(*TINY, *SHORTEST, "--epochs", 1, "--out", folder)
    train("--resume", folder, "--epochs", 2)
    train("evaluate", folder, "--rtol", "0.01", "--solver", "heun")


@pytest.mark.slow
def test_equal_trainings_in_one_process_leave_nothing_in_it(tmp_path):
    """As in a notebook, where a program that is kept is 10 to 60 MB."""
    train_resume_and_score(tmp_path / "first")
    after_the_first = kept_by_jax()
    for name in ("second", "third"):
        train_resume_and_score(tmp_path / name)
        assert kept_by_jax() == after_the_first
