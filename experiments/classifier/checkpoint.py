"""What a checkpoint of a run holds beside the arrays, and reading it again."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxode
from classifier.config import Config
from classifier.networks import Network
from classifier.records import Part
from classifier.run_folder import read_settings, RunFolder, settings_that_decide
from classifier.setup import build_model, build_optimiser
from console.command_line import InputError
from jaxode.training import CheckpointError, TrainState


@dataclass(frozen=True)
class Saved:
    """How far a run has come, by its checkpoint.

    Attributes:
        history: The objects of `metrics.jsonl`, of all epochs that are over.
        part: The epoch that has been begun, or is trained and not scored yet.
    """

    history: list[dict[str, Any]]
    part: Part | None

    @property
    def epochs_begun(self) -> int:
        """Number of epochs that are over or have been begun."""
        return len(self.history) + (self.part is not None)

    @property
    def next_part(self) -> Part:
        """What to go on with."""
        return self.part or Part(len(self.history) + 1)

    def to_header(self) -> dict[str, Any]:
        """As it stands in the header of the checkpoint."""
        part = None if self.part is None else dataclasses.asdict(self.part)
        return {"epoch": len(self.history), "history": self.history, "part": part}

    def __str__(self) -> str:
        if self.part is None:
            return f"after epoch {len(self.history)}"
        return f"in epoch {self.part.epoch}, after {self.part.row} steps of it"


def read_checkpoint(
    folder: RunFolder, stored: Config, about: dict[str, Any]
) -> Saved | None:
    """How far the last checkpoint of a run is; `None` if there is none yet.

    Args:
        folder: Of the run.
        stored: Its settings.
        about: All of its `config.json`.

    Raises:
        InputError: if it is of another run, or cannot be read, or is gone; the message
            offers the one before it if that is good.
    """
    if not folder.checkpoint.exists() and not folder.has_results():
        return None
    try:
        return _read(folder.checkpoint, stored, about, folder)
    except FileNotFoundError:
        problem = f"{folder.checkpoint} is gone."
    except (CheckpointError, InputError) as error:
        problem = str(error)
    raise InputError(f"{problem}\n{_way_out(folder, stored, about)}")


def _way_out(folder: RunFolder, stored: Config, about: dict[str, Any]) -> str:
    """What is left to a run whose checkpoint cannot be used."""
    new = "Start a new run with --out."
    try:
        before = _read(folder.previous, stored, about, folder)
    except FileNotFoundError:
        return f"There is none before it. {new}"
    except (CheckpointError, InputError, OSError):
        return f"{folder.previous}, the one before it, cannot be used either. {new}"
    return (
        f"The one before it is good, {before}. Put it in place by\n"
        f"mv {folder.previous} {folder.checkpoint}"
    )


def _read(
    path: Path, stored: Config, about: dict[str, Any], folder: RunFolder
) -> Saved:
    header = jaxode.training.load_header(path)
    missing = {"settings", "dataset", "history"} - set(header)
    if missing or not isinstance(header["settings"], dict):
        raise InputError(f"{path} is no checkpoint of a run of this script.")
    made_with = read_settings(header["settings"], path)
    if settings_that_decide(made_with) != settings_that_decide(stored):
        raise InputError(
            f"{path} was made with other settings than those in "
            f"{folder.config}; one of the two has been changed."
        )
    if header["dataset"] != about["dataset"]:
        raise InputError(
            f"{path} was trained on {header['dataset']} and by {folder.config} the "
            f"run is on {about['dataset']}; one of the two is of another run."
        )
    # Runs of earlier versions have none.
    ids = header.get("run_id"), about.get("run_id")
    if None not in ids and ids[0] != ids[1]:
        raise InputError(f"{path} is of another run than {folder.config}.")
    return _saved(path, header["history"], header.get("part"))


_LOSSES = ("train_loss", "test_loss")
_NUMBERS = """
    test_accuracy test_correct test_total test_seconds test_failed_solves
    nfe_forward nfe_backward train_seconds skipped_steps
""".split()


def _saved(path: Path, history: Any, part: Any) -> Saved:
    """Checks what an earlier version has not protected by a hash.

    Raises:
        InputError: naming the file.
    """
    try:
        for number, record in enumerate(history, start=1):
            texts = record["dataset"] + record["scored_on"]
            values = [record[name] for name in _NUMBERS]
            values += [0 if record[name] is None else record[name] for name in _LOSSES]
            is_right = isinstance(texts, str) and record["epoch"] == number
            if not is_right or {type(value) for value in values} - {int, float}:
                raise ValueError(number)
        epoch = len(history) + 1
        found = None if part is None else Part(**part)
        if found is not None and (found.epoch != epoch or found.row < 1):
            raise ValueError(epoch)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: its history cannot be read.") from error
    return Saved(history, found)


def load_state(
    folder: RunFolder, state: TrainState, saved: Saved, steps_per_epoch: int
) -> TrainState:
    """What had been trained.

    Raises:
        InputError: if it is not what `saved` says.
        jaxode.training.CheckpointError: if its arrays are not those of `state`.
    """
    state, header = jaxode.training.load_checkpoint(folder.checkpoint, state)
    if header["history"] != saved.history:
        raise InputError(
            f"{folder.checkpoint} has been replaced since this command has begun: "
            "another one trains there."
        )
    row = 0 if saved.part is None else saved.part.row
    steps = len(saved.history) * steps_per_epoch + row
    if row > steps_per_epoch or int(state.step) != steps:
        raise InputError(
            f"{folder.checkpoint} has {int(state.step)} training steps, and by its "
            f"history it should be {steps}: data set or batches are other ones."
        )
    return state


def load_model(folder: RunFolder, config: Config) -> Network:
    """The trained network of a run, to be solved under the settings of `config`.

    Raises:
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    # The optimiser decides the structure of the checkpoint, not the weights.
    optimiser = build_optimiser(config, steps_per_epoch=1)
    state = TrainState.create(build_model(config), optimiser)
    state, _ = jaxode.training.load_checkpoint(folder.checkpoint, state)
    return state.model
