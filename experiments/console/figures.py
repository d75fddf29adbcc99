"""How figures look: what survives greyscale, and where failures are shown."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from console.files import write_whole


# Okabe and Ito's colours, which people with any colour vision tell apart; each comes
# with a marker and a dash of its own, for print in grey.
PALETTE = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#444444", "^", ":"),
    ("#009e73", "D", "-."),
    ("#cc79a7", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#e69f00", "P", (0, (8, 2))),
    ("#56b4e9", "X", (0, (1, 1))),
)


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the line with this number."""
    colour, marker, dash = PALETTE[index % len(PALETTE)]
    return {"color": colour, "marker": marker, "linestyle": dash, "markersize": 5}


def line_styles(names: Iterable[str], first: Sequence[str] = ()) -> dict[str, Any]:
    """A style for each name; those in `first` have the same ones in every figure."""
    known = dict.fromkeys([*first, *names])
    return {name: line_style(index) for index, name in enumerate(known)}


def line(
    axes: Axes, x: Sequence[Any], y: Sequence[Any], label: str, **style: Any
) -> None:
    """A line through the values that there are; crosses at the top edge where none."""
    gaps = [float("nan") if value is None else value for value in y]
    axes.plot(x, gaps, label=label, linewidth=1.4, **style)
    missing = [at for at, value in zip(x, y, strict=True) if value is None]
    if not missing:
        return
    axes.plot(
        missing,
        [1.0] * len(missing),
        "x",
        color=style.get("color"),
        markersize=8,
        markeredgewidth=2,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
    )


def finish(axes: Axes, xlabel: str | None, ylabel: str | None) -> None:
    """Labels and a grid."""
    if xlabel:
        axes.set_xlabel(xlabel)
    if ylabel:
        axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3, which="major")


def plain_ticks(axis: Axis) -> None:
    """1, 2, 5, 10 and so on, on a logarithmic axis that spans a decade or two."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend for all axes, outside of them."""
    found: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(columns, len(found)),
        handlelength=3.5,
    )


def save(figure: Figure, path: Path) -> None:
    """Writes an image whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, dpi=150, format="png")
    write_whole(path, image.getvalue())
