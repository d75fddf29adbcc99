"""The three contestants of the benchmark, each as something that can be timed."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from console.xla_cpu import thread_settings
from speed import plain_diffrax, plain_paper
from speed.cases import Case
from speed.peer_process import PeerProcess
from speed.serve import mean_seconds


@dataclass(frozen=True)
class Inputs:
    """What every contestant works on: the same weights and the same images.

    Attributes:
        weights: One initialisation, under PyTorch's parameter names.
        images: uint8, as many as are scored in one run.
        labels: Class of each.
        folder: Where other processes may read files.
    """

    weights: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray
    folder: Path


class Contestant(Protocol):
    """Something that can be made ready for a case, and timed."""

    name: str

    def prepare(self, case: Case, inputs: Inputs) -> float:
        """Compiles and warms up.

        Returns:
            Field calls in one run, recomputed ones too, divided by the number of
            solves.
        """
        ...

    def seconds(self, case: Case, repeats: int) -> float:
        """Mean seconds of a run over so many, one after the other."""
        ...

    def forget(self, case: Case) -> None:
        """Frees what `prepare` made."""
        ...


class _Process(PeerProcess):
    """A contestant in a process of its own."""

    def prepare(self, case: Case, inputs: Inputs) -> float:
        """`Contestant.prepare`, over there."""
        weights, data = inputs.folder / "weights.npz", inputs.folder / "data.npz"
        np.savez(weights, **inputs.weights)  # pyright: ignore[reportArgumentType]
        np.savez(data, images=inputs.images, labels=inputs.labels)
        answer = self.ask(
            command="prepare",
            name=case.name,
            weights=str(weights),
            data=str(data),
            **dataclasses.asdict(case),
        )
        solves = len(inputs.images) // case.batch if case.task == "test" else 1
        return answer["calls"] / solves

    def seconds(self, case: Case, repeats: int) -> float:
        """`Contestant.seconds`, over there."""
        answer = self.ask(command="time", name=case.name, repeats=repeats)
        return answer["seconds"]

    def forget(self, case: Case) -> None:
        """`Contestant.forget`, over there."""
        self.ask(command="forget", name=case.name)


class Jaxode:
    """This library, with as many threads as `mnist.py` takes."""

    name = "jaxode"

    def __init__(self):
        self.running: dict[Case, _Process] = {}

    def prepare(self, case: Case, inputs: Inputs) -> float:
        threads = thread_settings(case.batch, case.channels)
        process = _Process(sys.executable, "speed.jaxode_peer", threads)
        self.running[case] = process
        return process.prepare(case, inputs)

    def seconds(self, case: Case, repeats: int) -> float:
        return self.running[case].seconds(case, repeats)

    def forget(self, case: Case) -> None:
        self.running.pop(case).close()


NETWORKS = {"post": plain_diffrax.Network, "paper": plain_paper.PaperNetwork}


class PlainDiffrax:
    """The same network on Diffrax as it comes, in this process and with all threads."""

    name = "plain Diffrax"

    def __init__(self):
        self.runs: dict[Case, Callable[[], Any]] = {}

    def prepare(self, case: Case, inputs: Inputs) -> float:
        calls = 0

        def count():
            nonlocal calls
            calls += 1

        def make(on_call, num_images):
            return plain_diffrax.make_run(
                NETWORKS[case.network],
                inputs.weights,
                case.tolerance,
                case.task,
                case.batch,
                inputs.images[:num_images],
                inputs.labels[:num_images],
                on_call,
            )

        # Counted on one batch: a callback at every call is slow.
        make(count, case.batch)()
        jax.effects_barrier()
        run = make(None, len(inputs.images))
        run()
        self.runs[case] = run
        return float(calls)

    def seconds(self, case: Case, repeats: int) -> float:
        return mean_seconds(self.runs[case], repeats)

    def forget(self, case: Case) -> None:
        self.runs.pop(case, None)


class Torch(_Process):
    """The network on PyTorch and torchdiffeq."""

    name = "torchdiffeq"

    def __init__(self, python: Path):
        super().__init__(python, "speed.torch_peer", {})
        self.versions = self.ask(command="versions")
