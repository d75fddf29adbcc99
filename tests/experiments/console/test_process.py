"""What a command does to its process: exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adjoints
import benchmark
import mnist


SCRIPTS = [mnist.__file__, adjoints.__file__, benchmark.__file__]
QUICK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("jax" in sys.modules, end.code)
"""


def run_python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: Path(path).name)
@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--bogus", 2)])
def test_help_and_a_typing_error_do_not_wait_for_jax(script, option, code):
    # Run as the script itself is, with its folder in front of the path.
    folder = str(Path(script).parent)
    done = run_python("-c", QUICK, script, option, PYTHONPATH=folder)
    assert done.stdout.splitlines()[-1] == f"False {code}", done.stderr


def test_bad_option_is_exit_code_2_without_traceback():
    done = run_python(mnist.__file__, "--adjoint", "bakcsolve")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "backsolve" in done.stderr
