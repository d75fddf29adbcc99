"""Figures of gradients: their memory, and their error in every respect."""

from matplotlib.figure import Figure

from adjoint_study.tables import groups, names, Records
from console.figures import (
    finish,
    legend_below,
    line,
    line_style,
    line_styles,
    plain_ticks,
)


_FIRST = ("backsolve", "checkpoint", "direct", "discrete")
_LOST = 1e4
_FAILURES = "x at the top edge: failed, see the table"


def memory(records: Records) -> dict[str, Figure]:
    """Temporary memory against the number of steps."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(names(records, "adjoint"), first=_FIRST)
    for adjoint, own in groups(records, "adjoint").items():
        bytes_ = [r["temporary_bytes"] for r in own]
        mib = [None if size is None else size / 2**20 for size in bytes_]
        line(axes, [r["steps"] for r in own], mib, adjoint, **styles[adjoint])
    axes.set(xscale="log", yscale="log")
    finish(axes, "fixed Euler steps", "temporary memory of a gradient, MiB")
    axes.legend(handlelength=3.5)
    known = [r["state_bytes"] for r in records if r["state_bytes"]]
    state = f"one state is {known[0] / 2**20:.2f} MiB" if known else "no account"
    figure.suptitle(f"Memory of a gradient, {state}\n")
    return {"memory": figure}


def tolerance(records: Records) -> dict[str, Figure]:
    """Gradient error against tolerance and seconds: networks, and analytic fields."""
    problems = groups(records, "problem")
    networks = {k: v for k, v in problems.items() if k.startswith("network")}
    fields = {k: v for k, v in problems.items() if not k.startswith("network")}
    chosen = {"tolerance-networks": networks, "tolerance-fields": fields}
    return {name: _work_precision(own) for name, own in chosen.items() if own}


def _work_precision(problems: dict[str, Records]) -> Figure:
    width = max(8, 1 + (2.5 if len(problems) > 2 else 3.6) * len(problems))
    figure = Figure(figsize=(width, 6.8), layout="constrained")
    grid = figure.subplots(2, len(problems), squeeze=False, sharey="col")
    every = [record for own in problems.values() for record in own]
    styles = line_styles(names(every, "adjoint"), first=_FIRST)
    for column, (problem, own) in enumerate(problems.items()):
        above, below = grid[:, column]
        above.set_title(problem)
        for (adjoint, solver), cells in groups(own, "adjoint", "solver").items():
            error = [cell["gradient_error"] for cell in cells]
            style = styles[adjoint]
            several = len(names(own, "solver")) > 1
            label = f"{adjoint}, {solver}" if several else adjoint
            line(above, [cell["rtol"] for cell in cells], error, label, **style)
            # A cell that failed has no seconds, so nowhere to put its cross.
            timed = [c for c in cells if c["seconds"] is not None]
            milliseconds = [1000 * c["seconds"] for c in timed]
            error = [c["gradient_error"] for c in timed]
            line(below, milliseconds, error, label, **style)
        known = [r["reference_error"] for r in own if r.get("reference_error")]
        for axes in (above, below):
            axes.set(xscale="log", yscale="log")
            if known:
                axes.axhline(known[0], color="0.6", lw=1, label="error of the truth")
        above.invert_xaxis()
        plain_ticks(below.xaxis)
        first = column == 0
        finish(above, "rtol = atol", "relative gradient error" if first else None)
        finish(below, "ms per gradient", "relative gradient error" if first else None)
    legend_below(figure, grid.ravel().tolist(), columns=6)
    figure.suptitle("Gradient error against tolerance and time")
    return figure


def horizon(records: Records) -> dict[str, Figure]:
    """Reconstruction error of backsolve, and every gradient's, against the horizon."""
    settings = groups(records, "dtype", "tolerance")
    adjoints = names(records, "adjoint")
    panels = [("backsolve", "reconstruction_error", "relative error of y(0)")]
    panels = [panel for panel in panels if panel[0] in adjoints]
    panels += [(name, "gradient_error", "relative gradient error") for name in adjoints]
    size = 1 + 3.3 * len(panels), 1 + 3.4 * len(settings)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(settings), len(panels), squeeze=False, sharex=True)
    problems = names(records, "problem")
    for row, ((dtype, tolerance), inside) in zip(grid, settings.items(), strict=True):
        for axes, (adjoint, key, label) in zip(row, panels, strict=True):
            if key == "gradient_error" and axes is not row[-1]:
                axes.sharey(row[-1])
            own = [r for r in inside if r["adjoint"] == adjoint]
            for problem, cells in groups(own, "problem").items():
                style = line_style(problems.index(problem))
                values = [cell[key] for cell in cells]
                line(axes, [c["horizon"] for c in cells], values, problem, **style)
            axes.axhline(1, color="0.4", lw=0.8)
            axes.set(xscale="log", yscale="log")
            ticks = sorted({r["horizon"] for r in records})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_title(
                f"{adjoint}\n{dtype}, rtol = atol = {tolerance:g}", fontsize=9
            )
            finish(axes, "horizon T, units of time", label)
        for axes in row:
            # What leaves through the top is lost, whatever its size.
            axes.set_ylim(top=min(axes.get_ylim()[1], _LOST))
    legend_below(figure, grid.ravel().tolist(), columns=6)
    figure.suptitle(f"Solving backwards from y(T); {_FAILURES}")
    return {"horizon": figure}
