"""The figures of the comparison, each drawn from the records of one table.

A cross at the top edge is a cell that failed; its row of the table says why.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adjoint_study.gradient_figures import horizon, memory, tolerance
from adjoint_study.network_figures import solvers, training, twins
from console.figures import save


FIGURES = {
    "memory": memory,
    "tolerance": tolerance,
    "training": training,
    "horizon": horizon,
    "solvers": solvers,
    "twins": twins,
}


def draw(folder: Path, tables: Mapping[str, dict[str, Any]]) -> None:
    """Draws what the tables allow into `PART.png` and its like."""
    for part, table in tables.items():
        records, note = table["records"], _note(table)
        for name, figure in FIGURES[part](records).items():
            figure.suptitle(f"{figure.get_suptitle()} ({note})", fontsize=11)
            save(figure, folder / f"{name}.png")


def _note(table: dict[str, Any]) -> str:
    note = f"{table['dataset']}, seed {table['seed']}"
    return f"{note}, QUICK" if table["quick"] else note
