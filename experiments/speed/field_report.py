"""Tables, JSON and a picture of the general problems."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from console.figures import finish, legend_below, line_styles, plain_ticks, save
from console.files import write_whole


WRONG = 0.5
"""Relative error of a gradient above which it is none: it does not even point there."""

OURS = "jaxode"
FASTER_TORCH = "torchdiffeq, the faster"


@dataclass(frozen=True)
class FieldRow:
    """One contestant in one problem; a failure, and then `None`, or all the rest.

    Attributes:
        problem: Its name.
        title: What it is.
        contestant: Its name.
        failure: Why there is no gradient.
        median_ms: Milliseconds of value and gradient, median over the rounds.
        fastest_ms: The fastest round.
        slowest_ms: The slowest round.
        rounds: Number of rounds.
        first_call_s: Seconds of the first call: tracing, compilation and one run.
        calls: Field calls of the forward solve.
        temporary_bytes: Of the compiled gradient; `None` where that is not known.
        loss: The value.
        error_state: Of the gradient by the first state, relative, against double
            precision at a tolerance of 1e-9.
        error_parameters: Of the gradient by the parameters.
    """

    problem: str
    title: str
    contestant: str
    failure: str | None = None
    median_ms: float | None = None
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    rounds: int | None = None
    first_call_s: float | None = None
    calls: int | None = None
    temporary_bytes: int | None = None
    loss: float | None = None
    error_state: float | None = None
    error_parameters: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether there is a gradient, and it is one by what would be trained."""
        return self.error_parameters is not None and self.error_parameters <= WRONG


def markdown(rows: list[FieldRow]) -> str:
    """A line for each problem, a line for each contestant in it, and the means."""
    return (
        "\n".join([*_summary(rows), "", *_details(rows), "", *ratio_lines(rows)]) + "\n"
    )


def _by_problem(rows: list[FieldRow]) -> dict[str, dict[str, FieldRow]]:
    cells: dict[str, dict[str, FieldRow]] = {}
    for row in rows:
        cells.setdefault(row.title, {})[row.contestant] = row
    return cells


def _summary(rows: list[FieldRow]) -> Iterator[str]:
    names = list(dict.fromkeys(row.contestant for row in rows))
    yield "| ms (first call, s) | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for title, cell in _by_problem(rows).items():
        yield f"| {title} | " + " | ".join(_brief(cell[name]) for name in names) + " |"


def _brief(row: FieldRow) -> str:
    if row.failure is not None:
        return "fails"
    text = f"{row.median_ms:.3g} ({row.first_call_s:.1f})"
    return text if row.is_right else f"wrong: {text}"


def _details(rows: list[FieldRow]) -> Iterator[str]:
    head = ("problem", "contestant", "ms [fastest to slowest]", "first call, s")
    head += ("field calls forwards", "temporary KiB", "loss")
    head += ("error of the gradient by y0", "by the parameters")
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        start = f"| {row.problem} | {row.contestant} | "
        if row.failure is not None:
            yield f"{start}fails: {row.failure}{' |' * (len(head) - 2)}"
            continue
        size = row.temporary_bytes
        parts = [
            f"{row.median_ms:.3g} [{row.fastest_ms:.3g} to {row.slowest_ms:.3g}]",
            f"{row.first_call_s:.2f}",
            f"{row.calls}",
            "" if size is None else f"{size / 1024:.4g}",
            f"{row.loss:.6g}",
            *map(_error, (row.error_state, row.error_parameters)),
        ]
        yield start + " | ".join(parts) + " |"


def _error(error: float | None) -> str:
    assert error is not None
    return f"{error:.1e}" + (", wrong" if error > WRONG else "")


def ratios(
    rows: list[FieldRow], value: Callable[[FieldRow], Any]
) -> dict[str, dict[str, float]]:
    """How many times jaxode's value each peer has, by peer and problem.

    Only where both gradients are right. `FASTER_TORCH` is the smaller of PyTorch's two.
    """
    found: dict[str, dict[str, float]] = {}
    for cell in _by_problem(rows).values():
        ours = cell[OURS]
        for name, row in cell.items():
            if name == OURS or not (row.is_right and ours.is_right):
                continue
            ratio = value(row) / value(ours)
            found.setdefault(name, {})[row.problem] = ratio
            if name.startswith("torchdiffeq"):
                faster = found.setdefault(FASTER_TORCH, {})
                faster[row.problem] = min(ratio, faster.get(row.problem, math.inf))
    return found


def ratio_lines(rows: list[FieldRow]) -> Iterator[str]:
    """The geometric mean and the worst, for each peer."""
    yield "| times jaxode's, where both gradients are right | geometric mean | worst |"
    yield "|---|---|---|"
    measures: dict[str, Callable[[FieldRow], Any]] = {
        "ms": lambda row: row.median_ms,
        "first call": lambda row: row.first_call_s,
    }
    for what, value in measures.items():
        for name, found in ratios(rows, value).items():
            if what == "first call" and name.startswith("torchdiffeq"):
                continue  # it compiles nothing
            logs = [math.log(ratio) for ratio in found.values()]
            mean = math.exp(sum(logs) / len(logs))
            worst = min(found, key=lambda problem: found[problem])
            number = f"{len(found)} problem" + ("s" if len(found) > 1 else "")
            yield (
                f"| {what}, {name}, {number} | {mean:.2f} | "
                f"{found[worst]:.2f} ({worst}) |"
            )


def draw(rows: list[FieldRow]) -> Figure:
    """The ratios of milliseconds: a line for each problem, a mark for each peer."""
    titles = {row.problem: row.title for row in rows}
    places = {problem: -i for i, problem in enumerate(titles)}
    figure = Figure(figsize=(10, 1.8 + 0.42 * len(titles)), layout="constrained")
    axes = figure.subplots()
    found = ratios(rows, lambda row: row.median_ms)
    names = [name for name in found if name != FASTER_TORCH]
    for name, style in line_styles(names).items():
        style |= {"linestyle": "none", "markersize": 8}
        heights = [places[problem] for problem in found[name]]
        axes.plot(list(found[name].values()), heights, label=name, **style)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    axes.set_yticks(list(places.values()), list(titles.values()))
    finish(axes, "value and gradient: times as long as jaxode", None)
    legend_below(figure, [axes])
    return figure


def print_report(rows: list[FieldRow], about: dict[str, Any]) -> None:
    """What a person sees at the end."""
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(markdown(rows))


def read_report(out: Path) -> tuple[list[FieldRow], dict[str, Any]]:
    """The rows that `write_report` wrote to a folder, and what it knew of them."""
    record = json.loads((out / "fields.json").read_text())
    return [FieldRow(**row) for row in record["rows"]], record["about"]


def write_report(out: Path, rows: list[FieldRow], about: dict[str, Any]) -> None:
    """Writes `fields.json`, `fields.md` and `fields.png`."""
    record = dict(about=about, rows=[dataclasses.asdict(row) for row in rows])
    write_whole(out / "fields.json", json.dumps(record, indent=1))
    write_whole(out / "fields.md", markdown(rows))
    save(draw(rows), out / "fields.png")
