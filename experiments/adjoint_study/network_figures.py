"""Figures of whole networks: along training, under other solvers, of twins."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adjoint_study.tables import groups, Records
from console.figures import (
    finish,
    legend_below,
    line,
    line_style,
    plain_ticks,
)


def training(records: Records) -> dict[str, Figure]:
    """Field calls along training."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    calls, ratio, error = figure.subplots(1, 3)
    for index, (name, own) in enumerate(groups(records, "network").items()):
        epochs = [r["middle"] for r in own]
        style = line_style(index) | {"markersize": 3.5}
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


def solvers(records: Records) -> dict[str, Figure]:
    """Test error of each network against the work of the solver it is scored under."""
    networks = groups(records, "network")
    width = max(8, 1 + 3.4 * len(networks))
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    row = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    for axes, (name, own) in zip(row, networks.items(), strict=True):
        axes.set_title(name)
        other = [r for r in own if not r["own"]]
        for index, (solver, cells) in enumerate(groups(other, "solver").items()):
            _error_line(axes, cells, solver, line_style(index))
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
    alone = {"linestyle": "none", "markersize": 7}
    for place, record in zip(places, records, strict=True):
        style = line_style(len(records) - place) | alone
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
