"""The folder of a run: `config.json`, `metrics.jsonl`, `curves.png`, `checkpoint.eqx`.

The checkpoint also holds the record of every epoch so far, so `metrics.jsonl` can be
made from it again: after a kill between the two, resuming puts in the missing line.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from _command_line import InputError
from _config import Config, NOT_COMPARED


_PACKAGES = ("jax", "jaxlib", "jaxode", "equinox", "diffrax", "optax", "numpy")
_NOT_STORED = ("out", "resume", "quiet")


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.curves = path / "curves.png"
        self.checkpoint = path / "checkpoint.eqx"
        self.stopped = path / "stopped.eqx"

    @classmethod
    def create(
        cls,
        path: Path | None,
        name: str,
        instead: str = ", or go on with a run by --resume",
    ) -> "RunFolder":
        """Makes the folder of a new run.

        Args:
            path: Where; runs/TIME-NAME if `None`.
            name: See `path`.
            instead: What else can be done where the folder is not empty.

        Raises:
            InputError: if there is something in it, or it cannot be written.
        """
        if path is None:
            path = _unused(Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Leftovers of a run that was killed before its first file was complete.
            found = [
                p
                for p in path.iterdir()
                if not (p.name.startswith(".") and p.suffix == ".tmp")
            ]
            probe = path / f".{os.getpid()}.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"--out {path} cannot be written: {reason}.") from error
        if found:
            raise InputError(
                f"--out {path} is not empty (it holds {found[0].name}), and nothing "
                f"is overwritten. Name a new folder{instead}."
            )
        return cls(path)

    def remove_if_empty(self) -> None:
        """Takes back `create` where nothing was written."""
        try:
            self.path.rmdir()
        except OSError:
            pass

    def write_config(self, config: Config, **facts: Any) -> None:
        """Writes the settings, and what else says where the numbers came from."""
        content = {"settings": stored_settings(config), **facts}
        write_whole(self.config, json.dumps(content, indent=2) + "\n")

    def append(self, record: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def restore_metrics(self, history: list[dict[str, Any]]) -> None:
        """Makes `metrics.jsonl` hold exactly the epochs of the checkpoint."""
        content = "".join(json.dumps(record) + "\n" for record in history)
        if not self.metrics.exists() or self.metrics.read_text() != content:
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
    except (ValueError, KeyError, TypeError):
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
        if name not in _NOT_STORED
    }


def read_settings(settings: dict[str, Any], source: Path) -> Config:
    """The inverse of `stored_settings`; `source` is the file that errors name."""
    names = {field.name for field in dataclasses.fields(Config)} - {*_NOT_STORED}
    differing = names ^ set(settings)
    if differing:
        raise InputError(
            f"{source} was written by another version of this script: it differs in "
            f"the settings {', '.join(sorted(differing))}."
        )
    if settings["data_dir"] is not None:
        settings = settings | {"data_dir": Path(settings["data_dir"])}
    return Config(**settings)


def settings_that_decide(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint must have been made with to be gone on with."""
    settings = stored_settings(config)
    return {name: settings[name] for name in settings if name not in NOT_COMPARED}


def write_whole(path: Path, text: str) -> None:
    """Replaces a file in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Versions of Python and of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def git_commit() -> str | None:
    """Commit of the checkout this script is in, marked where files were changed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _unused(path: Path) -> Path:
    """Two runs may start in the same second."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
