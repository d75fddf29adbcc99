"""The process of a command: exit codes, standard files, and the start of JAX."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from console.signals import (
    BROKEN_PIPE,
    end_on_signals,
    exit_of,
    Interrupted,
    stop_asked,
    write_error,
)


def exit_code(main: Callable[[], Any], name: str) -> int:
    """Runs `main`, with a user's mistakes as one line and an exit code.

    Args:
        main: The script's work.
        name: What the script is called in the line.
    """
    open_standard_files()
    end_on_signals()
    try:
        code = _exit_code(main, name)
    finally:
        # `--help` does not come back, and may have printed to a pipe that is closed.
        is_read = _flush_output()
    return code if is_read else 128 + BROKEN_PIPE


def _exit_code(main: Callable[[], Any], name: str) -> int:
    try:
        from console.command_line import InputError
    except ImportError as error:
        print(f'{error}: pip install -e ".[experiments]"', file=sys.stderr)
        return 2
    try:
        main()
    except InputError as error:
        write_error(f"{name}: {error}")
        return 2
    except Interrupted as stop:
        return exit_of(stop.number)
    except KeyboardInterrupt:
        write_error("Interrupted.")
        return 130
    # Output that did not go through a `Reporter`.
    except BrokenPipeError:
        discard_output()
        return 128 + BROKEN_PIPE
    except OSError as error:
        write_error(f"{name}: {error}")
        return 2
    number = stop_asked()
    return 0 if number is None else exit_of(number)


def open_standard_files() -> None:
    """Opens what was closed of standard input, output and error, on nothing.

    Otherwise the next file that is opened, a checkpoint perhaps, would take its number
    and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _flush_output() -> bool:
    """Whether standard output could be written to its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        return not isinstance(error, BrokenPipeError)
    return True


def discard_output() -> None:
    """Sends what is still to be printed to nowhere."""
    # A program that imports this may have put something else there.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turns what may be wrong with data, checkpoints and files into an `InputError`."""
    import jax

    import jaxode
    from console.command_line import InputError

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not reason.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise InputError(
            f"The device has not enough memory ({reason}). Take smaller batches, fewer "
            "channels, or another adjoint."
        ) from error
    except (
        jaxode.datasets.DataError,
        jaxode.training.CheckpointError,
        OSError,
        MemoryError,
    ) as error:
        raise InputError(str(error)) from error


def require_device() -> None:
    """Starts JAX.

    Raises:
        InputError: if it finds no device of the kind that JAX_PLATFORMS asks for.
    """
    import jax

    from console.command_line import InputError

    try:
        jax.devices()
    # An unknown name raises the first, a platform with no device here the second.
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise InputError(
            f"JAX finds no device under JAX_PLATFORMS={asked!r}"
            f"{': ' if reason else ''}{reason}. Unset it, or set JAX_PLATFORMS=cpu."
        ) from error
