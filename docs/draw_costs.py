"""Draws docs/costs.png, the README's figure, from the tables of the pages beside it.

    python docs/draw_costs.py [ANOTHER.png]

So the figure says what the pages say: the medians of "The headline" and the memory of
"Memory" in benchmark.md, and the gradient errors of the trained network in findings.md.
"""

import argparse
import re
from pathlib import Path

from matplotlib.figure import Figure


DOCS = Path(__file__).parent
# Okabe and Ito's colours, which differ in lightness too, and a marker for each.
STYLES = {
    "backsolve": ("#0072b2", "o", "-"),
    "checkpoint": ("#d55e00", "s", "--"),
    "direct": ("#444444", "^", ":"),
    "every step stored": ("#009e73", "D", "-."),
}
LIBRARIES = {"jaxode": "#0072b2", "torchdiffeq": "#e69f00", "plain Diffrax": "#999999"}


def table(page: str, first_cell: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `first_cell`, line by line.

    Args:
        page: File beside this one.
        first_cell: The table's upper left cell.
    """
    text = (DOCS / page).read_text("utf-8")
    start = text.index(f"| {first_cell} |")
    lines = text[start : text.index("\n\n", start)].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def number(cell: str) -> float:
    """The number that a cell begins with."""
    found = re.match(r"[\d.]+(e-?\d+)?", cell)
    if found is None:
        raise ValueError(f"the cell {cell!r} begins with no number")
    return float(found[0])


def draw_times(axes) -> None:
    """A bar for each library and adjoint."""
    head, *rows = table("benchmark.md", "tolerance 0.1, batch 16")
    rows = [row for row in rows if row[0].startswith("training step")]
    for i, (library, colour) in enumerate(LIBRARIES.items()):
        times = [number(row[head.index(library)]) for row in rows]
        places = [adjoint + 0.27 * (i - 1) for adjoint in range(len(rows))]
        bars = axes.barh(places, times, 0.25, color=colour, label=library)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=9)
    axes.set_yticks(range(len(rows)), [row[0].split(", ")[1] for row in rows])
    axes.invert_yaxis()
    axes.set(
        xlabel="ms, batch 16, 2 CPU cores",
        xlim=(0, 180),
        title="A training step on MNIST",
    )
    axes.legend(fontsize=9)


def draw_lines(axes, x: list[float], lines: dict[str, list[float]]) -> None:
    """A line for each adjoint."""
    for name, y in lines.items():
        colour, marker, dashes = STYLES[name]
        axes.plot(x, y, color=colour, marker=marker, ls=dashes, ms=5, label=name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def draw_errors(axes) -> None:
    """Error of the gradient against tolerance."""
    head, *rows = table("findings.md", "rtol = atol")
    columns = {"backsolve": "backsolve", "checkpoint": "checkpoint, direct"}
    lines = {
        name: [number(row[head.index(column)]) for row in rows]
        for name, column in columns.items()
    }
    axes.set(xscale="log", yscale="log")
    draw_lines(axes, [number(row[0]) for row in rows], lines)
    axes.invert_xaxis()
    axes.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set(xlabel="tolerance", ylabel="off by, %", title="Error of its gradient")


def draw_memory(axes) -> None:
    """Memory against steps."""
    head, *rows = table("benchmark.md", "adjoint")
    lines = {name: [number(cell) for cell in cells] for name, *cells in rows}
    axes.set(xscale="log", yscale="log")
    draw_lines(axes, [number(cell) for cell in head[1:]], lines)
    axes.set_yticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set(xlabel="steps", ylabel="in states", title="Memory of a gradient")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws the README's figure.")
    parser.add_argument("file", nargs="?", default=DOCS / "costs.png")
    file = parser.parse_args().file
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    times, errors, memory = figure.subplots(1, 3)
    draw_times(times)
    draw_errors(errors)
    draw_memory(memory)
    figure.savefig(file, dpi=110)
