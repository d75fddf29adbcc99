"""Runs of the experiments, for the tests of them: in this process, or in one each."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mnist


# As small as can be: what counts here is the way, not the accuracy.
TINY = """
    --dataset digits --train-size 64 --batch-size 32 --channels 2 --solver heun --seed 3
""".split()


def train(*arguments: object) -> str:
    """Runs `mnist.py` in this process; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        mnist.main([*map(str, arguments)])
    return printed.getvalue()


_EXPERIMENTS = str(Path(mnist.__file__).parent)


class Runner:
    """Runs `mnist.py` in processes of their own, within one folder."""

    def __init__(self, folder: Path, **settings: str):
        self.folder = folder
        # Compiled code is shared between the runs, and kept from the user's cache.
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [_EXPERIMENTS, os.environ.get("PYTHONPATH", "")]
            ),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **settings,
        }

    def __call__(
        self, *arguments: object, code: int = 0, script: str = mnist.__file__
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end and expects an exit code."""
        done = subprocess.run(
            self._command(arguments, script),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def redirected(
        self, where: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        """Runs it with standard files as a shell is told to, such as `>&-`."""
        command = self._command(arguments, mnist.__file__)
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {where}', "sh", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start(
        self, *arguments: object, script: str = mnist.__file__
    ) -> subprocess.Popen[str]:
        """Starts one, whose output is to be read."""
        return subprocess.Popen(
            self._command(arguments, script),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(
        self, *arguments: object, after_line: str, delay: float, how: signal.Signals
    ) -> tuple[int, str]:
        """Sends a signal so long after a line was printed; exit code and stderr."""
        with self.start(*arguments) as process:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                if line.startswith(after_line):
                    break
            # The pipe must not fill up in the meantime.
            reader = threading.Thread(target=process.stdout.read)
            reader.start()
            time.sleep(delay)
            process.send_signal(how)
            code = process.wait(timeout=60)
            reader.join()
            return code, process.stderr.read()

    def _command(self, arguments: tuple[object, ...], script: str) -> list[str]:
        return [sys.executable, script, *map(str, arguments)]


@contextlib.contextmanager
def processes(
    folder: Path, *options: object, number: int = 2, script: str = mnist.__file__
) -> Iterator[list[Any]]:
    """Processes of one run over loopback; whatever is left of them is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # One thread each, and one device.
    run = Runner(folder, XLA_FLAGS="--xla_force_host_platform_device_count=1")
    together = ["--distributed", "--coordinator-address", address]
    together += ["--num-processes", str(number), "--process-id"]
    started = [
        run.start(*options, *together, index, script=script) for index in range(number)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def first_line(folder: Path, name: str = "checkpoint.eqx") -> dict:
    """What a checkpoint says about itself."""
    return json.loads((folder / name).read_bytes().split(b"\n")[0])


def arrays(folder: Path, name: str = "checkpoint.eqx") -> str:
    """Hash of all arrays in a checkpoint, as it is stored with them."""
    return first_line(folder, name)["sha256"]


def header(folder: Path) -> dict:
    """What a run has put into its checkpoint beside the arrays."""
    return first_line(folder)["header"]


def metrics(folder: Path) -> list[dict]:
    """The objects of `metrics.jsonl`."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def numbers(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    return [
        {name: value for name, value in record.items() if "second" not in name}
        for record in metrics(folder)
    ]


def assert_same_curve(actual: list[dict], expected: list[dict]) -> None:
    """The same numbers but for the order in which single precision adds up."""
    for one, other in zip(actual, expected, strict=True):
        for name in ("train_loss", "test_loss"):
            # Observed 1e-6: the parts of a batch are added up in another order.
            assert one[name] == pytest.approx(other[name], rel=1e-4)
        for name in ("nfe_forward", "nfe_backward", "test_nfe", "rejected_steps"):
            assert one[name] == other[name]
        assert one["test_total"] == 360


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def record(epoch: int, **changes) -> dict:
    """One object of `metrics.jsonl`."""
    values = {
        "epoch": epoch,
        "dataset": "digits",
        "scored_on": "test",
        "train_loss": 1.0 / epoch,
        "test_loss": 0.9 / epoch,
        "test_accuracy": 0.975,
        "test_correct": 351,
        "test_total": 360,
        "test_failed_solves": 0,
        "nfe_forward": 14.0,
        "nfe_backward": 21.5,
        "skipped_steps": 0,
        "train_seconds": 3.25,
        "test_seconds": 0.125,
    }
    return values | changes
