"""The grid of the benchmark, and what is measured in each of its cells."""

from dataclasses import dataclass
from typing import get_args, Literal


NetworkName = Literal["post", "paper"]
Task = Literal["backsolve", "discrete", "checkpoint", "test"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Case:
    """One cell of the grid.

    Attributes:
        task: A training step with this adjoint, or scoring images.
        channels: Width of the network.
        batch: Images per solve.
        tolerance: Both tolerances of the solve.
        network: The first post's, or that of the ODE-Net paper.
    """

    task: Task
    channels: int
    batch: int
    tolerance: float
    network: NetworkName = "post"

    @property
    def name(self) -> str:
        parts = [self.task, self.channels, self.batch, f"{self.tolerance:g}"]
        parts += [] if self.network == "post" else [self.network]
        return "-".join(map(str, parts))


@dataclass(frozen=True)
class Row:
    """One contestant in one cell of the grid.

    Attributes:
        case: The cell.
        contestant: Its name.
        images: Images in one run.
        median_ms: Milliseconds of a run, median over the rounds.
        fastest_ms: The fastest round.
        slowest_ms: The slowest round.
        calls_per_solve: Field calls of one solve, and of its gradient.
        rounds: Number of rounds.
    """

    case: Case
    contestant: str
    images: int
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    calls_per_solve: float
    rounds: int


def cases(headline: bool) -> list[Case]:
    """The grid: tasks over batch sizes, widths, tolerances; fast cells first.

    Checkpoints, which give the gradient of `discrete`, are in its first shape only.
    """
    grid = [Case(task, 6, 16, 0.1) for task in TASKS]
    if headline:
        return grid
    shapes = [(6, 128, 0.1), (6, 512, 0.1), (2, 16, 0.1), (16, 16, 0.1)]
    shapes += [(6, 16, 1e-2), (6, 16, 1e-3)]
    shapes += [(2, 128, 0.1), (2, 512, 0.1), (16, 128, 0.1)]
    # In these a single run of plain Diffrax takes from 10 seconds to minutes.
    shapes += [(64, 16, 0.1), (16, 512, 0.1), (64, 128, 0.1), (64, 512, 0.1)]
    tasks: list[Task] = [task for task in TASKS if task != "checkpoint"]
    grid += [Case(task, *shape) for shape in shapes for task in tasks]
    return grid


def paper_cases() -> list[Case]:
    """The paper's network in its released setting; its checkpoints are `discrete`'s."""
    tasks: list[Task] = ["discrete", "backsolve", "test"]
    return [Case(task, 64, 128, 1e-3, "paper") for task in tasks]
