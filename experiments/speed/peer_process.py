"""A contestant in a process of its own, asked by lines of JSON (see `serve`)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any


_EXPERIMENTS = str(Path(__file__).parent.parent)


class PeerProcess:
    """A process that runs a module of the experiments under any Python."""

    def __init__(self, python: str | Path, module: str, settings: dict[str, str]):
        # Another Python does not know the folder of the experiments.
        path = [_EXPERIMENTS, *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {**settings, "PYTHONPATH": os.pathsep.join(path)}
        self.process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A contestant's process ended; its message is above.")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process and waits for that."""
        self.process.communicate()
