"""Cells as a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._optional import require
from .measurement import Measurement, Reference


# Colours that differ in lightness too (Okabe and Ito 2008), with markers and dashes of
# their own, for who sees no colour.
_STYLES = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#000000", "^", ":"),
    ("#56b4e9", "D", "-."),
    ("#e69f00", "v", (0, (5, 1))),
    ("#009e73", "P", (0, (1, 1))),
)


def draw(
    cells: Sequence[Measurement], reference: Reference, path: str | Path | None
) -> Any:
    """Error against tolerance, error against seconds, memory against steps."""
    figures = require("matplotlib.figure", "Drawing a comparison")
    figure = figures.Figure(figsize=(13, 4), layout="constrained")
    by_rtol, by_time, memory = figure.subplots(1, 3)
    lines: dict[tuple[str, str], list[Measurement]] = {}
    for cell in cells:
        lines.setdefault((cell.adjoint, cell.solver), []).append(cell)
    several = len({solver for _, solver in lines}) > 1
    for i, ((adjoint, solver), own) in enumerate(lines.items()):
        colour, marker, dashes = _STYLES[i % len(_STYLES)]
        style: dict[str, Any] = dict(color=colour, marker=marker, linestyle=dashes)
        style |= dict(label=f"{adjoint}, {solver}" if several else adjoint, ms=5)
        _line(by_rtol, own, "rtol", "gradient_error", style)
        _line(by_time, own, "seconds", "gradient_error", style)
        _line(memory, own, "num_accepted_steps", "temporary_bytes", style)
    by_rtol.invert_xaxis()
    by_rtol.set(xlabel="relative tolerance", ylabel="relative error of the gradient")
    by_time.set(
        xlabel="time for a gradient, s", ylabel="relative error of the gradient"
    )
    memory.set(xlabel="steps of the solve", ylabel="temporary memory, bytes")
    if reference.error:
        for axes in (by_rtol, by_time):
            label = "error of the reference"
            axes.axhline(reference.error, color="#999999", lw=1, label=label)
    for axes in (by_rtol, by_time, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    by_rtol.legend()
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _line(
    axes: Any, cells: list[Measurement], x: str, y: str, style: dict[str, Any]
) -> None:
    points = [(getattr(c, x), getattr(c, y)) for c in cells if c.failure is None]
    known = [(a, b) for a, b in points if a and b]
    if known:
        axes.plot(*zip(*known, strict=True), **style)
