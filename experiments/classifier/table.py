"""`mnist.py table`: runs side by side, printed, as CSV and as a picture."""

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.config import Config, TableConfig
from classifier.fits import describe
from classifier.run_folder import read_run, settings_that_decide
from classifier.table_figure import draw_table
from console.command_line import InputError
from console.files import new_folder, write_whole
from console.progress import Reporter


MEASURES = {
    "accuracy": "{:.2%}",
    "seconds_per_epoch": "{:.3g} s",
    "calls_forward": "{:.1f}",
    "calls_backward": "{:.1f}",
    "bytes": "{:.3g}",
}
"""What is compared, and how a number of it is printed."""
WORDS = ("run", "model", "dataset", "runs", "epochs", "parameters")


@dataclass(frozen=True)
class RunRecord:
    """One run: its settings, and the numbers of its last epoch."""

    name: str
    config: Config
    row: dict[str, Any]


def table(asked: TableConfig) -> list[dict[str, Any]]:
    """Prints a row for each run, and writes `table.csv` and `table.png`.

    Returns:
        The rows.

    Raises:
        InputError: for a folder that is no run or has no epoch yet, or that cannot be
            written.
    """
    if not asked.runs:
        raise InputError("table needs the folder of at least one run.")
    records = [read_record(path) for path in asked.runs]
    groups = by_settings(records) if asked.seeds else [[one] for one in records]
    rows = [in_one_row(group) for group in groups]
    folder = new_folder(asked.out, "table", instead="")
    write_whole(folder / "table.csv", as_csv(rows))
    draw_table(rows, folder / "table.png")
    reporter = Reporter(quiet=False)
    for line in as_text(rows):
        reporter.result(line)
    reporter.result(f"files in {folder}/")
    return rows


def read_record(path: Path) -> RunRecord:
    """The settings and numbers of a run.

    Raises:
        InputError: if it is none, or has no epoch yet.
    """
    folder, config, content = read_run(path)
    try:
        lines = folder.metrics.read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
        last = epochs[-1]
        row = {
            "run": path.name,
            "model": describe(config),
            "dataset": last["dataset"],
            "runs": 1,
            "epochs": last["epoch"],
            "parameters": content["parameters"],
            "accuracy": last["test_accuracy"],
            "seconds_per_epoch": statistics.median(e["train_seconds"] for e in epochs),
            "calls_forward": last["nfe_forward"],
            "calls_backward": last["nfe_backward"],
            "bytes": last.get("temporary_bytes"),
        }
    except (OSError, IndexError) as error:
        raise InputError(f"{path} has no epoch yet: {folder.metrics}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder.metrics} is damaged: {error}.") from error
    return RunRecord(path.name, config, row)


def by_settings(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs that differ by their seed only together, in the order in which they come."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        settings = settings_that_decide(record.config) | {"seed": None}
        settings |= {"epochs": record.row["epochs"], "on": record.row["dataset"]}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(record)
    return list(groups.values())


def in_one_row(group: Sequence[RunRecord]) -> dict[str, Any]:
    """The means over runs that differ by their seed, and the accuracy's deviation."""
    rows = [record.row for record in group]
    row = {**rows[0], "runs": len(rows), "accuracy_deviation": None}
    for name in MEASURES:
        values = [one[name] for one in rows if one[name] is not None]
        row[name] = statistics.fmean(values) if values else None
    if len(rows) > 1:
        accuracies = [one["accuracy"] for one in rows]
        row["accuracy_deviation"] = statistics.stdev(accuracies)
    return row


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each row; what is not known is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for a person to read, columns below each other."""
    names = [*WORDS, *MEASURES]
    cells = [[name.replace("_", " ") for name in names]]
    cells += [[_shown(row, name) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]


def _shown(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if name not in MEASURES:
        return f"{value:,}" if isinstance(value, int) else str(value)
    shown = MEASURES[name].format(value)
    if name == "bytes":
        return f"{value / 2**20:.3g} MiB"
    deviation = row["accuracy_deviation"] if name == "accuracy" else None
    return shown if deviation is None else f"{shown} +-{100 * deviation:.2f}"
