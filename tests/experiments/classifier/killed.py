"""Trains a run that is killed again and again: `python killed.py FOLDER SEED KILLS`.

Modules are imported once and each part of the run is a fork, so that a kill costs two
seconds. Most of them come from within, before, in or after one of the calls by which
files are written; the others by the clock. Prints where they fell, as JSON.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import metrics, TINY

import jaxode
import mnist
from classifier import loop, run


STEPS_OF_WRITING = ("mkstemp", "write", "fsync", "chmod", "replace", "link", "append")


class Killer:
    """Kills this process at one of the calls by which it writes its files."""

    def __init__(self, rng: random.Random):
        self.step = rng.choice(STEPS_OF_WRITING)
        self.moment = rng.choice(("before", "after"))
        # Writes of `config.json` come first, then two or more of a checkpoint an epoch.
        self.left = rng.randint(1, 12)
        self.share = rng.random()

    def install(self) -> None:
        for name, module, function in [
            ("fsync", os, "fsync"),
            ("chmod", os, "chmod"),
            ("replace", os, "replace"),
            ("link", os, "link"),
            ("mkstemp", tempfile, "mkstemp"),
            ("append", run.RunFolder, "append"),
        ]:
            if name == self.step:
                setattr(module, function, self._around(getattr(module, function)))
        if self.step == "write":
            os.fdopen = self._half_written(os.fdopen)

    def _around(self, function: Callable) -> Callable:
        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0 and self.moment == "before":
                self.kill()
            result = function(*arguments, **options)
            if self.left == 0:
                self.kill()
            return result

        return call

    def _half_written(self, fdopen: Callable) -> Callable:
        def opened(*arguments, **options):
            file = fdopen(*arguments, **options)
            self.left -= 1
            if self.left == 0:
                file.write = lambda content: self._part(file.raw, content)
            return file

        return opened

    def _part(self, file: Any, content: bytes) -> None:
        file.write(content[: int(len(content) * self.share)])
        self.kill()

    def kill(self) -> None:
        os.write(1, f"{self.step} {self.moment}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def train(arguments: list[str], rng: random.Random | None) -> None:
    """One part of the run, in a process of its own that does not come back."""
    try:
        if rng is not None:
            # Epochs in several pieces, each of which may be saved.
            loop._SECONDS_PER_CALL = 0.002
            run._SAVE_EVERY_S = rng.choice((0.0, 60.0))
            if rng.random() < 0.7:
                Killer(rng).install()
        mnist.main(arguments)
        os._exit(0)
    except BaseException as error:  # whatever it is, the parent is told
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


def part(arguments: list[str], rng: random.Random | None) -> int:
    """Runs one part, killed by the clock where it does not kill itself; its status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        train(arguments, rng and random.Random(rng.random()))
    if rng is not None:
        wait_for_an_epoch(child, Path(arguments[1]))
        time.sleep(rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_an_epoch(child: int, folder: Path) -> None:
    """Until it has trained one, or is no more (which is looked at and not reaped)."""
    file = folder / "metrics.jsonl"
    before = file.stat().st_size if file.exists() else 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if file.exists() and file.stat().st_size > before:
            return
        time.sleep(0.002)


def main(folder: Path, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    # Imported here, once; and the shortest solve there is.
    digits = jaxode.datasets.load("digits")
    run.jaxode.datasets.load = lambda *_, **__: digits
    options = [*TINY, "--batch-size", "16", "--quiet", "--shift", "0"]
    options += "--solver euler --fixed-steps --dt0 0.5".split()
    long = [*options, "--epochs", "100000"]
    # The first is for what it compiles.
    assert part(["--out", str(folder / "first"), *options, "--epochs", "1"], None) == 0
    killed, codes, leftovers = folder / "killed", [], 0
    for _ in range(kills):
        is_begun = (killed / "config.json").exists()
        start = ["--resume", str(killed)] if is_begun else ["--out", str(killed), *long]
        codes.append(part(start, rng))
        leftovers += len(list(killed.glob(".*.tmp")))
    epochs = len(metrics(killed)) + 2
    end = ["--epochs", str(epochs)]
    assert part(["--resume", str(killed), *end], None) == 0
    assert part(["--out", str(folder / "calm"), *options, *end], None) == 0
    told = {"codes": codes, "epochs": epochs, "leftovers": leftovers}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
