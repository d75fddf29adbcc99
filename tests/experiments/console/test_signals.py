"""What a signal does to a command: noted while it saves, obeyed, and obeyed at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import console


pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from console.process import exit_code
from console.signals import Interrupted, saving_first, set_interrupt_hint, stop_asked

def main():
    set_interrupt_hint("Go on so.")
    with saving_first():
        with saving_first():
            pass
        print("begun", flush=True)
        while not (stop_asked() and "looks" in sys.argv):
            time.sleep(0.01)
        print("saved", flush=True)
    raise Interrupted(stop_asked())

sys.exit(exit_code(main, "program"))
"""


def start(*arguments: str, **options) -> subprocess.Popen[str]:
    """The program, when it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(console.__path__[0]).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_is_obeyed_when_all_is_saved(how):
    with start("looks") as process:
        process.send_signal(how)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + how and out == "saved\n"
    assert errors.startswith("Stopping") and errors.endswith("\nGo on so.\n")


def test_second_signal_ends_at_once():
    with start() as process:
        process.terminate()
        assert process.stderr.readline().startswith("Stopping")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and (out, errors) == ("", "Go on so.\n")


def test_hang_up_that_nohup_has_ignored_is_ignored():
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with start("looks", preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(60) == 143
