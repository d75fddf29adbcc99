"""Twenty epochs with a resume after each: nothing grows, and nothing is left behind."""

import gc
import os
from pathlib import Path

import jax
import pytest
from runs import arrays, content, numbers, TINY, train


EPOCHS = 20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_twenty_epochs_with_a_resume_after_each(tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event)
    )
    folder = tmp_path / "soaked"
    memory, programs, files = [], [], []
    train(*TINY, "--epochs", 1, "--out", folder)
    for epochs in range(2, EPOCHS + 1):
        compiled.clear()
        train("--resume", folder, "--epochs", epochs, "--quiet")
        # JAX keeps the programs of a process; what is left is what we keep.
        jax.clear_caches()
        gc.collect()
        memory.append(resident_bytes())
        programs.append(sum("backend_compile" in event for event in compiled))
        files.append(sorted(content(folder)))
    # In this process, where nothing is freed by its end.
    assert len({*programs[1:]}) == 1, programs
    assert files == EPOCHS_OF_FILES
    # Observed: see docs/reliability.md.
    growth = memory[-1] - memory[1]
    assert growth < 20e6, [round(m / 1e6) for m in memory]
    train(*TINY, "--epochs", EPOCHS, "--out", tmp_path / "whole")
    assert arrays(folder) == arrays(tmp_path / "whole")
    assert numbers(folder) == numbers(tmp_path / "whole")


EPOCHS_OF_FILES = (EPOCHS - 1) * [
    [
        ".lock",
        "checkpoint.eqx",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "previous.eqx",
    ]
]
