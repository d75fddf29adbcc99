"""The figures of the comparison, each drawn from the records of one table.

A cross at the top edge is a cell that failed; its row of the table says why.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _adjoints_style import (
    adjoint_look,
    finish,
    legend_below,
    line,
    look,
    plain_ticks,
    save,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure


Records = list[dict[str, Any]]
_LOST = 1e4
FAILURES = "x at the top edge: failed, see the table"


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


def memory(records: Records) -> dict[str, Figure]:
    """Temporary memory against the number of steps."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    for adjoint, own in _groups(records, "adjoint").items():
        bytes_ = [r["temporary_bytes"] for r in own]
        mib = [None if size is None else size / 2**20 for size in bytes_]
        style = adjoint_look(adjoint, _names(records, "adjoint"))
        line(axes, [r["steps"] for r in own], mib, adjoint, **style)
    axes.set(xscale="log", yscale="log")
    finish(axes, "fixed Euler steps", "temporary memory of a gradient, MiB")
    axes.legend(handlelength=3.5)
    known = [r["state_bytes"] for r in records if r["state_bytes"]]
    state = f"one state is {known[0] / 2**20:.2f} MiB" if known else "no account"
    figure.suptitle(f"Memory of a gradient, {state}\n")
    return {"memory": figure}


def tolerance(records: Records) -> dict[str, Figure]:
    """Gradient error against tolerance and seconds: networks, and analytic fields."""
    problems = _groups(records, "problem")
    networks = {k: v for k, v in problems.items() if k.startswith("network")}
    fields = {k: v for k, v in problems.items() if not k.startswith("network")}
    chosen = {"tolerance-networks": networks, "tolerance-fields": fields}
    return {name: _work_precision(own) for name, own in chosen.items() if own}


def _work_precision(problems: dict[str, Records]) -> Figure:
    width = max(8, 1 + (2.5 if len(problems) > 2 else 3.6) * len(problems))
    figure = Figure(figsize=(width, 6.8), layout="constrained")
    grid = figure.subplots(2, len(problems), squeeze=False, sharey="col")
    every = [record for own in problems.values() for record in own]
    names = _names(every, "adjoint")
    for column, (problem, own) in enumerate(problems.items()):
        above, below = grid[:, column]
        above.set_title(problem)
        for (adjoint, solver), cells in _groups(own, "adjoint", "solver").items():
            error = [cell["gradient_error"] for cell in cells]
            style = adjoint_look(adjoint, names)
            several = len(_names(own, "solver")) > 1
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


def training(records: Records) -> dict[str, Figure]:
    """Field calls along training."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    calls, ratio, error = figure.subplots(1, 3)
    for index, (name, own) in enumerate(_groups(records, "network").items()):
        epochs = [r["middle"] for r in own]
        style = look(index) | {"markersize": 3.5}
        backward = style | {"markerfacecolor": "white"}
        forward_calls = [r["nfe_forward"] for r in own]
        line(calls, epochs, forward_calls, f"{name}, forward (filled)", **style)
        backward_calls = [r["nfe_backward"] for r in own]
        line(calls, epochs, backward_calls, f"{name}, backward (open)", **backward)
        values = [r["backward_over_forward"] for r in own]
        line(ratio, epochs, values, f"{name}, forward (filled)", **style)
        values = [r["reconstruction_error"] for r in own]
        line(error, epochs, values, f"{name}, forward (filled)", **style)
    calls.set_yscale("log")
    plain_ticks(calls.yaxis)
    error.set_yscale("log")
    finish(calls, "epochs", "field calls per training step")
    finish(ratio, "epochs", "backward over forward calls")
    finish(error, "epochs", "relative error of y(0), solved back")
    legend_below(figure, [calls], columns=3)
    figure.suptitle("Field calls of backsolve along training")
    return {"training": figure}


def horizon(records: Records) -> dict[str, Figure]:
    """Reconstruction error of backsolve, and every gradient's, against the horizon."""
    settings = _groups(records, "dtype", "tolerance")
    adjoints = _names(records, "adjoint")
    panels = [("backsolve", "reconstruction_error", "relative error of y(0)")]
    panels = [panel for panel in panels if panel[0] in adjoints]
    panels += [(name, "gradient_error", "relative gradient error") for name in adjoints]
    size = 1 + 3.3 * len(panels), 1 + 3.4 * len(settings)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(settings), len(panels), squeeze=False, sharex=True)
    problems = _names(records, "problem")
    for row, ((dtype, tolerance), inside) in zip(grid, settings.items(), strict=True):
        for axes, (adjoint, key, label) in zip(row, panels, strict=True):
            if key == "gradient_error" and axes is not row[-1]:
                axes.sharey(row[-1])
            own = [r for r in inside if r["adjoint"] == adjoint]
            for problem, cells in _groups(own, "problem").items():
                style = look(problems.index(problem))
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
    figure.suptitle(f"Solving backwards from y(T); {FAILURES}")
    return {"horizon": figure}


def solvers(records: Records) -> dict[str, Figure]:
    """Test error of each network against the work of the solver it is scored under."""
    networks = _groups(records, "network")
    width = max(8, 1 + 3.4 * len(networks))
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    row = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    for axes, (name, own) in zip(row, networks.items(), strict=True):
        axes.set_title(name)
        other = [r for r in own if not r["own"]]
        for index, (solver, cells) in enumerate(_groups(other, "solver").items()):
            _error_line(axes, cells, solver, look(index))
        ours = [_error_percent(r) for r in own if r["own"]]
        if ours and ours[0] is not None:
            axes.axhline(ours[0], color="0.4", lw=1, label="as trained")
        axes.set(xscale="log", yscale="log")
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        finish(axes, "field calls per solve", None)
    row[0].set_ylabel("test images wrong, %")
    legend_below(figure, row.tolist(), columns=8 if width > 9 else 4)
    figure.suptitle("Is it still an ODE? Networks under solvers they have not seen")
    return {"solvers": figure}


def _error_line(axes: Axes, cells: Records, label: str, style: dict[str, Any]) -> None:
    known = [c for c in cells if _error_percent(c) is not None]
    known.sort(key=lambda c: c["test_nfe"])
    calls = [c["test_nfe"] for c in known]
    line(axes, calls, [_error_percent(c) for c in known], label, **style)


def _error_percent(record: dict[str, Any]) -> float | None:
    accuracy = record.get("test_accuracy")
    return None if accuracy is None else 100 * (1 - accuracy)


def twins(records: Records) -> dict[str, Figure]:
    """Accuracy, size and time of the ODE block and of what could stand in its place."""
    figure = Figure(figsize=(11, 1.2 + 0.5 * len(records)), layout="constrained")
    right, size, time = figure.subplots(1, 3, sharey=True)
    places = range(len(records), 0, -1)
    for place, record in zip(places, records, strict=True):
        style = look(len(records) - place) | {"linestyle": "none", "markersize": 7}
        spread = 100 * record["accuracy_standard_error"]
        accuracy = 100 * record["test_accuracy"]
        right.errorbar(accuracy, place, xerr=spread, capsize=3, **style)
        size.plot(record["parameters"], place, **style)
        time.plot(record["seconds_per_epoch"], place, **style)
    right.set_yticks(list(places), [r["network"] for r in records])
    right.set_ylim(0.5, len(records) + 0.5)
    for axes in (size, time):
        axes.set_xlim(0, 1.15 * axes.get_xlim()[1])
    finish(right, "test images right, % (bars: one standard error)", None)
    finish(size, "parameters", None)
    finish(time, "training, seconds per epoch", None)
    figure.suptitle("The ODE block and its discrete twins, one recipe")
    return {"twins": figure}


def _groups(records: Records, *keys: str) -> dict[Any, Records]:
    """Records by the values they have there; in the order in which these come."""
    found: dict[Any, Records] = {}
    for record in records:
        # What failed as a whole has no cells to draw.
        if all(key in record for key in keys):
            values = tuple(record[key] for key in keys)
            found.setdefault(values if len(keys) > 1 else values[0], []).append(record)
    return found


def _names(records: Records, key: str) -> list[Any]:
    return list(_groups(records, key))


FIGURES = {
    "memory": memory,
    "tolerance": tolerance,
    "training": training,
    "horizon": horizon,
    "solvers": solvers,
    "twins": twins,
}
