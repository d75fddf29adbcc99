"""The benchmark's picture: times against the grid's axes, and memory against steps."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from classifier.memory import Memory
from console.figures import finish, legend_below, line_style, line_styles
from speed.cases import Row, TASKS


_PANELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("batch", "batch size, images", {"channels": 6, "tolerance": 0.1}),
    ("channels", "channels", {"batch": 16, "tolerance": 0.1}),
    ("tolerance", "rtol = atol", {"channels": 6, "batch": 16}),
)


def draw(rows: list[Row], memory: list[Memory]) -> Figure:
    """Time against batch, width and tolerance, and memory against steps; log axes."""
    figure = Figure(figsize=(17, 5), layout="constrained")
    *panels, last = figure.subplots(1, 4)
    for axes, (attribute, label, fixed) in zip(panels, _PANELS, strict=True):
        own = [
            row
            for row in rows
            if all(getattr(row.case, name) == value for name, value in fixed.items())
        ]
        _draw_times(axes, own, attribute)
        axes.set(xscale="log", yscale="log")
        finish(axes, label, "time per image, ms")
        ticks = sorted({getattr(row.case, attribute) for row in rows})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    legend_below(figure, panels, columns=3)
    _draw_memory(last, memory)
    return figure


def _draw_times(axes: Axes, rows: list[Row], attribute: str) -> None:
    """A colour for each task, a marker and a dash for each contestant."""
    tasks = line_styles(TASKS)
    contestants = line_styles(["jaxode", "plain Diffrax", "torchdiffeq"])
    for task, coloured in tasks.items():
        for name, marked in contestants.items():
            points = sorted(
                (getattr(row.case, attribute), row.median_ms / row.images)
                for row in rows
                if (row.case.task, row.contestant) == (task, name)
            )
            if points:
                style = marked | {"color": coloured["color"]}
                axes.plot(*zip(*points, strict=True), label=f"{task}, {name}", **style)


def _draw_memory(axes: Axes, memory: list[Memory]) -> None:
    for index, adjoint in enumerate(dict.fromkeys(m.adjoint for m in memory)):
        own = [m for m in memory if m.adjoint == adjoint]
        sizes = [m.temporary_bytes / m.state_bytes for m in own]
        axes.plot([m.steps for m in own], sizes, label=adjoint, **line_style(index))
    axes.set(xscale="log", yscale="log")
    finish(axes, "fixed Euler steps", "temporary memory, states")
    axes.legend(handlelength=3.5)
