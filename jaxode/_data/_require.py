import importlib
from typing import Any


def require(module: str) -> Any:
    """Imports an optional module when it is first needed.

    Raises:
        ImportError: if it cannot be imported; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Loading this data set needs the module {module!r}, which failed to import"
            f' ({error}); run: pip install "jaxode[experiments]"'
        ) from error
