"""Cells as lines of text."""

from collections.abc import Sequence
from typing import SupportsFloat

from .measurement import Measurement


_HEAD = (
    "adjoint",
    "solver",
    "rtol",
    "gradient error",
    "of the adjoint",
    "cosine",
    "calls",
    "backward",
    "steps",
    "reconstructed",
    "memory",
    "time",
    "compiled",
)


def table(cells: Sequence[Measurement]) -> str:
    """One line for each cell, columns aligned; what failed says why."""
    rows = [_HEAD, *(_row(cell) for cell in cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    notes = [f"  {cell.failure}" if cell.failure else "" for cell in cells]
    ruled = [lines[0], "-" * len(lines[0].rstrip())]
    body = [line + note for line, note in zip(lines[1:], notes, strict=True)]
    return "\n".join(line.rstrip() for line in ruled + body)


def bytes_text(size: int) -> str:
    """A size in the unit in which it has the fewest digits."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**power:.3g} {units[power]}"


def seconds_text(seconds: float) -> str:
    """A time in the unit in which it has the fewest digits."""
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _row(cell: Measurement) -> tuple[str, ...]:
    rejected = f" +{cell.num_rejected_steps}" if cell.num_rejected_steps else ""
    return (
        cell.adjoint,
        cell.solver,
        f"{cell.rtol:g}",
        _number(cell.gradient_error, ".2g"),
        _number(cell.consistency, ".2g"),
        _number(cell.cosine, ".6f"),
        _number(cell.nfe_forward, "d"),
        _number(cell.nfe_backward, "d"),
        _number(cell.num_accepted_steps, "d") + rejected,
        _number(cell.reconstruction_error, ".2g"),
        "" if cell.temporary_bytes is None else bytes_text(cell.temporary_bytes),
        "" if cell.seconds is None else seconds_text(cell.seconds),
        "" if cell.compile_seconds is None else seconds_text(cell.compile_seconds),
    )


def _number(value: SupportsFloat | None, form: str) -> str:
    return "" if value is None else format(value, form)
