"""`curves.png`: what a run did, epoch by epoch."""

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_curves(history: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draws loss, accuracy and field calls over the epochs of `metrics.jsonl`."""
    # A figure of its own, without pyplot: no window system is needed or looked for.
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, calls = figure.subplots(1, 3)
    scored = history[0]["scored_on"]
    _lines(
        loss,
        history,
        {"train_loss": "train", "test_loss": scored},
        "cross entropy, nats",
    )
    loss.set_yscale("log")
    _lines(accuracy, history, {"test_accuracy": scored}, "images right, %", scale=100)
    names = {"nfe_forward": "forward", "nfe_backward": "backward"}
    _lines(calls, history, names, "field calls per step")
    calls.set_ylim(0, 1.15 * calls.get_ylim()[1])
    figure.suptitle(title)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)


def _lines(
    axes: Axes,
    history: list[dict[str, Any]],
    names: dict[str, str],
    label: str,
    scale: float = 1,
) -> None:
    for key, name in names.items():
        # A loss that was not finite is stored as null, and leaves a gap here.
        known = [(r["epoch"], r[key]) for r in history]
        values = [float("nan") if v is None else v * scale for _, v in known]
        axes.plot([epoch for epoch, _ in known], values, "o-", ms=4, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
