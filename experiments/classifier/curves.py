"""`curves.png`: what a run did, epoch by epoch."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from console.figures import finish, line, line_style, save


def draw_curves(history: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draws loss, accuracy and field calls over the epochs of `metrics.jsonl`."""
    # A figure of its own, without pyplot: no window system is needed or looked for.
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, calls = figure.subplots(1, 3)
    scored = history[0]["scored_on"]
    losses = {"train_loss": "train", "test_loss": scored}
    _curves(loss, history, losses, "cross entropy, nats")
    loss.set_yscale("log")
    _curves(accuracy, history, {"test_accuracy": scored}, "images right, %", scale=100)
    names = {"nfe_forward": "forward", "nfe_backward": "backward"}
    _curves(calls, history, names, "field calls per step")
    calls.set_ylim(0, 1.15 * calls.get_ylim()[1])
    figure.suptitle(title)
    save(figure, path)


def _curves(
    axes: Axes,
    history: list[dict[str, Any]],
    names: dict[str, str],
    label: str,
    scale: float = 1,
) -> None:
    epochs = [record["epoch"] for record in history]
    for index, (key, name) in enumerate(names.items()):
        values = [record[key] for record in history]
        # A loss that was not finite is stored as null.
        scaled = [None if value is None else value * scale for value in values]
        line(axes, epochs, scaled, name, **line_style(index))
    finish(axes, "epoch", label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
