"""The settings of `benchmark.py`. Free of JAX, so that `--help` takes no time."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from console.command_line import InputError


# Written out, since importing the library imports JAX; a test holds it to that one's.
ADJOINTS = "discrete", "backsolve", "checkpoint", "direct"


@dataclass(frozen=True)
class Config:
    """Times training steps and scoring for jaxode and its peers."""

    torch_python: Path | None = None
    """Python with torch and torchdiffeq; without it, PyTorch is left out."""
    headline: bool = False
    """Only 6 channels, batch 16, tolerance 0.1, and 10,000 images to score."""
    paper: bool = False
    """Only the ODE-Net paper's network: 64 channels, batch 128, tolerance 1e-3."""
    fields: bool = False
    """General problems instead of the network: jaxode against Diffrax,
    jax.experimental.ode and torchdiffeq, everyone with its defaults."""
    problems: str | None = None
    """Names of general problems, with commas between them; all if not given."""
    adjoints: str | None = None
    """Further rows for the general problems: jaxode under these adjoints, with commas
    between them. Its default is there in any case."""
    rounds: int = 7
    """Rounds in which the contestants take turns."""
    seconds: float = 1.0
    """Time spent on each contestant in each round, about; at least one run."""
    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """Images to work on."""
    data_dir: Path | None = None
    """Folder with the four original files of the data set."""
    slow: float = 5.0
    """Seconds of a run from which on a contestant is timed in one round only."""
    longest: float = 300.0
    """Seconds of a run, by the time at a smaller batch, past which it is left out."""
    out: Path | None = None
    """New folder for table, JSON and plots; runs/TIME-benchmark if not given."""
    resume: Path | None = None
    """Folder of a benchmark that was stopped, to go on with its other cells."""


def check(config: Config) -> None:
    """Refuses what makes no sense, before anything is read or written.

    Raises:
        InputError: naming the options.
    """
    if config.resume is not None and config.out is not None:
        raise InputError("--resume DIR writes to DIR; leave --out away.")
    if not config.fields:
        for name in ("problems", "adjoints"):
            if getattr(config, name) is not None:
                raise InputError(f"--{name} is about those of --fields; add that.")
        if config.headline and config.paper:
            raise InputError("--headline and --paper are two tables; give one of them.")
        return
    if config.headline or config.paper or config.resume is not None:
        raise InputError("--fields has neither --headline, --paper nor --resume.")
    problem_names(config)
    adjoint_names(config)


def problem_names(config: Config) -> list[str]:
    """The general problems asked for.

    Raises:
        InputError: for a name that none has.
    """
    from speed.problems import PROBLEMS

    if config.problems is None:
        return list(PROBLEMS)
    return _chosen("problems", config.problems, PROBLEMS)


def adjoint_names(config: Config) -> list[str]:
    """The adjoints asked for beside the default.

    Raises:
        InputError: for a name that none has.
    """
    if config.adjoints is None:
        return []
    return _chosen("adjoints", config.adjoints, ADJOINTS)


def _chosen(option: str, given: str, known: Iterable[str]) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise InputError(
                f"--{option} got {name!r}; choose from {', '.join(known)}."
            )
    return list(dict.fromkeys(names))
