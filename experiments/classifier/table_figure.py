"""`table.png`: what runs reached, and what they took for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from console.figures import finish, PALETTE, save


# Column of the table, what it is called, and what its numbers are multiplied by.
PANELS = (
    ("accuracy", "images wrong, %", 100),
    ("seconds_per_epoch", "seconds per epoch", 1),
    ("calls", "field calls per step", 1),
    ("bytes", "temporary MiB", 2**-20),
)


def draw_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws a bar for each row and measure, with its number beside it."""
    figure = Figure(figsize=(12, 1.4 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    names = [f"{row['model']}\n{row['parameters']:,} parameters" for row in rows]
    places = list(range(len(rows)))[::-1]
    for index, (name, label, scale) in enumerate(PANELS):
        one, colour = axes[index], PALETTE[index][0]
        values = [_value(row, name) for row in rows]
        known = [0 if value is None else value * scale for value in values]
        errors = [_error(row, name, scale) for row in rows]
        one.set_axisbelow(True)
        one.barh(places, known, height=0.6, color=colour)
        if any(errors):
            style = dict(fmt="none", ecolor="black", capsize=3)
            one.errorbar(known, places, xerr=errors, **style)
        for place, value, error in zip(places, values, errors, strict=True):
            text = "not known" if value is None else f"{value * scale:.3g}"
            at = 0 if value is None else value * scale + error
            one.annotate(
                text, (at, place), (4, 0), textcoords="offset points", va="center"
            )
        one.set_xlim(0, 1.3 * max(known) or 1)
        finish(one, label, None)
    axes[0].set_yticks(places, names, fontsize=8)
    save(figure, path)


def _value(row: dict[str, Any], name: str) -> float | None:
    if name == "accuracy":
        return 1 - row[name]
    if name == "calls":
        return row["calls_forward"] + row["calls_backward"]
    return row[name]


def _error(row: dict[str, Any], name: str, scale: float) -> float:
    deviation = row["accuracy_deviation"] if name == "accuracy" else None
    return 0.0 if deviation is None else deviation * scale
