"""Packages that only some settings need. Free of JAX, as `config` is."""

import importlib.util

from classifier.config import Config
from console.command_line import InputError


def require_extras(config: Config) -> None:
    """Refuses settings whose package is not installed.

    Apart from `check`, which the stored settings of a run pass too.

    Raises:
        InputError: naming the option, and what to type.
    """
    if config.stream and not _is_there("grain"):
        raise InputError(
            '--stream needs Grain: run pip install "jaxode[stream]", or leave it out '
            "(--no-stream for a run that was begun with it)."
        )
    if config.checkpoint_format == "orbax" and not _is_there("orbax.checkpoint"):
        raise InputError(
            '--checkpoint-format orbax needs Orbax: run pip install "jaxode[orbax]", '
            "or take --checkpoint-format file."
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
