"""The folder of a run: `config.json`, `metrics.jsonl`, `curves.png`, `checkpoint.eqx`.

The checkpoint also holds the record of every epoch so far, so `metrics.jsonl` can be
made from it again: after a kill between the two, resuming puts in the missing line.
`previous.eqx` is the checkpoint before it, for the day on which it cannot be read.
Free of JAX, as `config` is.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, Literal

from classifier.checks import check
from classifier.config import ADDED, Config, NOT_COMPARED, ONE_CALL
from console.command_line import InputError
from console.files import write_whole


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.curves = path / "curves.png"
        self.checkpoint = path / "checkpoint.eqx"
        self.previous = path / "previous.eqx"
        self.stopped = path / "stopped.eqx"

    def has_results(self) -> bool:
        """Whether there has been a checkpoint, be it there or not."""
        if self.previous.exists():
            return True
        return self.metrics.exists() and self.metrics.stat().st_size > 0

    def write_config(self, config: Config, **facts: Any) -> None:
        """Writes the settings, and what else says where the numbers came from."""
        content = {"settings": None, **facts} | {"settings": stored_settings(config)}
        write_whole(self.config, json.dumps(content, indent=2) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def restore_metrics(self, history: list[dict[str, Any]]) -> None:
        """Makes `metrics.jsonl` hold exactly the epochs of the checkpoint."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        content = lines.encode()
        if not self.metrics.exists() or self.metrics.read_bytes() != content:
            write_whole(self.metrics, content)


def read_run(path: Path) -> tuple[RunFolder, Config, dict[str, Any]]:
    """The folder of an earlier run, its settings, and all of its `config.json`.

    Raises:
        InputError: if the folder is no run, or its settings cannot be used.
    """
    folder = RunFolder(path)
    try:
        content = json.loads(folder.config.read_text())
        settings, dataset = content["settings"], content["dataset"]
    except OSError as error:
        raise InputError(
            f"{path} is not the folder of a run: {folder.config} cannot be read "
            f"({error.strerror})."
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        content = settings = dataset = None
    if (
        content is None
        or not isinstance(settings, dict)
        or not isinstance(dataset, str)
    ):
        raise InputError(f"{folder.config} is damaged: it holds no settings.")
    return folder, read_settings(settings, folder.config), content


def stored_settings(config: Config) -> dict[str, Any]:
    """The settings as JSON, without those that belong to one call only."""
    settings = dataclasses.asdict(config)
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in settings.items()
        if name not in ONE_CALL
    }


def read_settings(settings: dict[str, Any], source: Path) -> Config:
    """The inverse of `stored_settings`; `source` is the file that errors name."""
    names = {field.name for field in dataclasses.fields(Config)} - {*ONE_CALL}
    differing = (names ^ set(settings)) - (set(ADDED) - set(settings))
    if differing:
        raise InputError(
            f"{source} was written by another version of this script: it differs in "
            f"the settings {', '.join(sorted(differing))}."
        )
    given = {**settings}
    if isinstance(given["data_dir"], str):
        given["data_dir"] = Path(given["data_dir"])
    for name, kind in get_type_hints(Config).items():
        if name in given and not _is_of(given[name], kind):
            raise InputError(
                f"{source} is damaged: {name} cannot be {json.dumps(settings[name])}."
            )
    config = Config(**given)
    try:
        check(config)
    except InputError as error:
        raise InputError(f"{source} is damaged: {error}") from error
    return config


def _is_of(value: Any, kind: Any) -> bool:
    """Whether JSON has kept what the type of a setting says."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is not None:  # X | None
        return any(_is_of(value, part) for part in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or (kind is Path and isinstance(value, Path))


def settings_that_decide(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint must have been made with to be gone on with."""
    settings = stored_settings(config)
    return {name: settings[name] for name in settings if name not in NOT_COMPARED}
