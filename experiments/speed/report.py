"""Tables, JSON and plots of the benchmark."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from classifier.memory import Memory
from console.figures import save
from console.files import write_whole
from speed.cases import Case, Row
from speed.figure import draw


def _by_case(rows: list[Row]) -> dict[Case, dict[str, Row]]:
    cells: dict[Case, dict[str, Row]] = {}
    for row in rows:
        cells.setdefault(row.case, {})[row.contestant] = row
    return cells


def markdown(rows: list[Row], memory: list[Memory]) -> str:
    """The tables, for a terminal and for a README."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    peers = names[1:]
    head = ["task", "channels", "batch", "tolerance"]
    head += [f"{name}, ms (calls)" for name in names]
    head += [f"{peer} / {names[0]}" for peer in peers]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for case, cell in _by_case(rows).items():
        task = case.task
        if task == "test":
            task = f"test, {next(iter(cell.values())).images:,} images"
        parts = [task, str(case.channels), str(case.batch), f"{case.tolerance:g}"]
        parts += [_time(cell.get(name)) for name in names]
        parts += [_ratio(cell.get(peer), cell.get(names[0])) for peer in peers]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join(lines + ["", *_memory_lines(memory)]) + "\n"


def _time(row: Row | None) -> str:
    if row is None:
        return "left out"
    spread = f" [{row.fastest_ms:.1f} to {row.slowest_ms:.1f}]"
    spread = spread if row.rounds > 1 else ""
    return f"{row.median_ms:.1f}{spread} ({row.calls_per_solve:g})"


def _ratio(peer: Row | None, ours: Row | None) -> str:
    return f"{peer.median_ms / ours.median_ms:.2f}" if peer and ours else ""


def _memory_lines(memory: list[Memory]) -> list[str]:
    if not memory:
        return []
    steps = sorted({m.steps for m in memory})
    found = {(m.adjoint, m.steps): m for m in memory}
    lines = [
        "Temporary memory of a gradient in fixed Euler steps, in states of "
        f"{memory[0].state_bytes / 1024:.0f} KiB:",
        "",
        "| adjoint | " + " | ".join(f"{n} steps" for n in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for adjoint in dict.fromkeys(m.adjoint for m in memory):
        cells = [found[adjoint, n] for n in steps]
        sizes = [f"{c.temporary_bytes / c.state_bytes:.1f}" for c in cells]
        lines.append(f"| {adjoint} | " + " | ".join(sizes) + " |")
    return lines


def print_table(rows: list[Row], about: dict[str, Any], memory: list[Memory]) -> None:
    """What a person sees at the end."""
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(markdown(rows, memory))


def read_report(out: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows that `write_report` wrote to a folder, and what it knew of them."""
    record = json.loads((out / "benchmark.json").read_text())
    rows = [Row(**row | {"case": Case(**row["case"])}) for row in record["rows"]]
    return rows, record["about"]


def write_report(
    out: Path, rows: list[Row], about: dict[str, Any], memory: list[Memory]
) -> None:
    """Writes `benchmark.json`, `benchmark.md` and the plots that the rows allow."""
    record = dict(
        about=about,
        rows=[dataclasses.asdict(row) for row in rows],
        memory=[dataclasses.asdict(m) for m in memory],
    )
    write_whole(out / "benchmark.json", json.dumps(record, indent=1))
    write_whole(out / "benchmark.md", markdown(rows, memory))
    if memory:
        save(draw(rows, memory), out / "benchmark.png")
