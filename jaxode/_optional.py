"""Modules that only some functions need."""

import importlib
from typing import Any


def require(
    module: str, purpose: str = "Loading this data set", extra: str = "experiments"
) -> Any:
    """Imports an optional module when it is first needed.

    Args:
        module: Its name.
        purpose: What it is needed for, as the start of a sentence.
        extra: The extra of this package that brings it.

    Raises:
        ImportError: if it cannot be imported; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the module {module!r}, which failed to import ({error}); "
            f'run: pip install "jaxode[{extra}]"'
        ) from error
