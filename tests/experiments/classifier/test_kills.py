"""A run that is killed thirty times and more, most often while it writes its files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import killed
import pytest
from runs import arrays, numbers

import mnist


KILLS = 32


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_run_killed_at_any_moment_ends_with_the_bits_of_one_that_was_not(tmp_path):
    folders = [Path(mnist.__file__).parent, Path(killed.__file__).parents[1]]
    settings = {
        "PYTHONPATH": os.pathsep.join(
            [*map(str, folders), os.environ.get("PYTHONPATH", "")]
        ),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, killed.__file__, str(tmp_path), "1", str(KILLS)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *steps, last = done.stdout.splitlines()
    told = json.loads(last)
    assert told["codes"] == KILLS * [-signal.SIGKILL]
    # Most fell on the writing, at each of its steps, and some left a file half done.
    from_within = [step.split()[0] for step in steps if step.endswith(("ore", "ter"))]
    assert len(from_within) > KILLS / 2 and len(set(from_within)) >= 5
    assert told["leftovers"] > 0
    folder, calm = tmp_path / "killed", tmp_path / "calm"
    assert arrays(folder) == arrays(calm)
    assert numbers(folder) == numbers(calm)
    assert not list(folder.glob(".*.tmp"))
