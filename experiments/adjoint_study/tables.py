"""Tables of the comparison: one JSON and one CSV for each part."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from console.command_line import InputError
from console.files import write_whole


Records = list[dict[str, Any]]


def write_table(folder: Path, part: str, records: Records, **about: Any) -> None:
    """Writes `PART.json`, with what the numbers come from, and `PART.csv`."""
    content = {"part": part, **about, "records": records}
    text = json.dumps(content, indent=1, allow_nan=False)
    write_whole(folder / f"{part}.json", text + "\n")
    write_whole(folder / f"{part}.csv", _as_csv(records))


def _as_csv(records: Records) -> str:
    """One line for each record, without what is not a single value."""
    # Cells that failed lack some columns, and may come first.
    names = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if not isinstance(value, dict | list)
    )
    file = io.StringIO()
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def read_tables(folder: Path, parts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `write_table` has written there, by part.

    Raises:
        InputError: if there is none, or one cannot be read.
    """
    found = {}
    for part in parts:
        path = folder / f"{part}.json"
        try:
            found[part] = json.loads(path.read_text())
            found[part]["records"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error}.") from error
    if not found:
        names = ", ".join(f"{part}.json" for part in parts)
        raise InputError(f"--redraw {folder} has none of the tables {names}.")
    return found


def groups(records: Records, *keys: str) -> dict[Any, Records]:
    """Records by the values they have there; in the order in which these come."""
    found: dict[Any, Records] = {}
    for record in records:
        # What failed as a whole has no cells to draw.
        if all(key in record for key in keys):
            values = tuple(record[key] for key in keys)
            found.setdefault(values if len(keys) > 1 else values[0], []).append(record)
    return found


def names(records: Records, key: str) -> list[Any]:
    return list(groups(records, key))
