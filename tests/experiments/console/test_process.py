"""What a command does to its process: exit codes, flags and threads of XLA:CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adjoints
import benchmark
import mnist
from console.process import set_xla_cpu_flags, use_one_thread_if_small


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


def test_flags_for_xla_are_set_unless_the_user_has_set_some(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    set_xla_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=somewhere"
    monkeypatch.delenv("XLA_FLAGS")
    set_xla_cpu_flags()
    whole_loops = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold"
    assert f"{whole_loops}=0" in os.environ["XLA_FLAGS"].split()


def test_a_small_state_gets_one_thread_unless_the_user_has_set_some(monkeypatch):
    def threads(batch, channels):
        use_one_thread_if_small(batch, channels)
        return os.environ.get("PJRT_NPROC")

    monkeypatch.setenv("PJRT_NPROC", "")  # so that what is set below is taken back
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("NPROC", "2")
    assert threads(16, 6) is None
    monkeypatch.delenv("NPROC")
    assert threads(64, 6) is threads(29, 5) is None
    assert threads(24, 6) == "1"
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert threads(16, 6) == "3"


CUT_CONVOLUTION = """
import jax, jax.numpy as jnp
from jaxode.nn.kernels.conv import convolve
program = jax.jit(lambda x, w: convolve(x, w, batch=16))
compiled = program.lower(jnp.zeros((6, 28, 448)), jnp.zeros((6, 6, 3, 3))).compile()
print("outer_dimension_partitions" in compiled.as_text())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="one core",
)
@pytest.mark.parametrize(("threads", "is_cut"), [(None, "True"), ("1", "False")])
def test_with_one_thread_xla_does_not_cut_convolutions(monkeypatch, threads, is_cut):
    monkeypatch.delenv("NPROC")
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    settings = {} if threads is None else {"PJRT_NPROC": threads}
    done = run_python("-c", CUT_CONVOLUTION, **settings)
    assert done.stdout.strip() == is_cut, done.stderr
