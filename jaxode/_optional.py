"""Modules that only some functions need."""

import importlib
from typing import Any


def require(module: str, purpose: str = "Loading this data set") -> Any:
    """Imports an optional module when it is first needed.

    Raises:
        ImportError: if it cannot be imported; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the module {module!r}, which failed to import ({error}); "
            'run: pip install "jaxode[experiments]"'
        ) from error
