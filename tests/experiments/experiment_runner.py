"""Runs the experiments in processes of their own, for the tests of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mnist


# As small as can be: what counts here is the way, not the accuracy.
TINY = """
    --dataset digits --train-size 64 --batch-size 32 --channels 2 --solver heun --seed 3
""".split()


class Runner:
    """Runs a script, `mnist.py` if no other is named, within one folder."""

    def __init__(self, folder: Path, script: str = mnist.__file__):
        self.folder = folder
        self._script = script
        # Compiled code is shared between the runs, and kept from the user's cache.
        self._environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def __call__(
        self, *arguments: object, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end and expects an exit code."""
        done = subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def interrupt(
        self, *arguments: object, after_line: str, delay: float, how: signal.Signals
    ) -> tuple[int, str]:
        """Sends a signal so long after a line was printed; exit code and stderr."""
        with subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
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

    def _command(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, self._script, *map(str, arguments)]


def arrays(folder: Path, name: str = "checkpoint.eqx") -> str:
    """Hash of all arrays in a checkpoint, as it is stored with them."""
    return json.loads((folder / name).read_bytes().split(b"\n")[0])["sha256"]


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


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
