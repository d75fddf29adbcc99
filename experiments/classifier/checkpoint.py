"""What a checkpoint of a run holds beside the arrays, and reading it again."""

from typing import Any

import jaxode
from classifier.config import Config
from classifier.networks import Network
from classifier.run_folder import read_settings, RunFolder, settings_that_decide
from classifier.setup import build_model, build_optimiser
from console.command_line import InputError


def read_checkpoint_header(folder: RunFolder, stored: Config) -> dict[str, Any] | None:
    """What the last checkpoint of a run says about itself; `None` if there is none yet.

    Raises:
        InputError: if it was not made with the settings of the run.
        jaxode.training.CheckpointError: if it cannot be read.
    """
    if not folder.checkpoint.exists():
        return None
    header = jaxode.training.load_header(folder.checkpoint)
    made_with = read_settings(header["settings"], folder.checkpoint)
    if settings_that_decide(made_with) != settings_that_decide(stored):
        raise InputError(
            f"{folder.checkpoint} was made with other settings than those in "
            f"{folder.config}; one of the two has been changed."
        )
    return header


def load_model(folder: RunFolder, config: Config) -> Network:
    """The trained network of a run, to be solved under the settings of `config`.

    Raises:
        jaxode.training.CheckpointError: if the checkpoint cannot be read.
    """
    # The optimiser decides the structure of the checkpoint, not the weights.
    optimiser = build_optimiser(config, steps_per_epoch=1)
    state = jaxode.training.TrainState.create(build_model(config), optimiser)
    state, _ = jaxode.training.load_checkpoint(folder.checkpoint, state)
    return state.model
