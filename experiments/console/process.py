"""The process of a command: exit codes, standard files, and settings of XLA:CPU."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from console.signals import (
    BROKEN_PIPE,
    end_on_signals,
    exit_of,
    Interrupted,
    stop_asked,
    write_error,
)


# Images of a batch times channels of the state: the largest product measured at which
# one thread was faster than two.
ONE_THREAD_UP_TO = 6 * 24


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


def set_xla_cpu_flags() -> None:
    """Lets XLA use all of a CPU: its 512-bit vectors, and in loops all of its cores.

    The vectors are worth 10 to 25 % of a step where there are any. As for the cores:
    the XLA:CPU of jax 0.12 compiles a loop that calls no library into one kernel, for
    one core, whatever its size (arrays of 40 MB were the largest tried). Convolutions
    of more than nine channels are such loops, and a step takes 1.2 to 1.4 times as
    long on two cores. A limit of no bytes turns this off; jax 0.10 has no such kernel
    and ignores the option. To be removed once `docs/benchmark.md`'s figures are the
    same without it.

    A matter for scripts: the flags act on the whole process and must be set before JAX
    starts, so they are left alone where the user has set `XLA_FLAGS`.
    """
    if "XLA_FLAGS" in os.environ:
        return
    flags = ["--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=0"]
    try:
        has_avx512 = " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        has_avx512 = False
    if has_avx512:
        flags.insert(0, "--xla_cpu_prefer_vector_width=512")
    os.environ["XLA_FLAGS"] = " ".join(flags)


def use_one_thread_if_small(batch: int, channels: int) -> None:
    """Puts `thread_settings` in force, which must happen before JAX starts."""
    os.environ.update(thread_settings(batch, channels))


def thread_settings(batch: int, channels: int) -> dict[str, str]:
    """Environment variables: one thread of a CPU for XLA where a state is small.

    XLA:CPU cuts each convolution into as many pieces as there are threads, whatever its
    size. Handing the pieces over, and their results from one core's cache to the
    other's, takes longer than the work: with two threads a step of 6 channels and 16
    images takes 1.1 times as long as with one, and of 2 channels 1.5 times
    (`docs/benchmark.md`). The other cores are left for other runs.

    A matter for scripts, as `set_xla_cpu_flags` is.

    Args:
        batch: Images of a training step.
        channels: Channels of the state.

    Returns:
        What to set; nothing where the user has set a number of threads.
    """
    if threads_asked_for() or batch * channels > ONE_THREAD_UP_TO:
        return {}
    return {"PJRT_NPROC": "1"}


def threads_asked_for() -> str | None:
    """The number of threads that the environment tells XLA:CPU to use, if it does."""
    return os.environ.get("PJRT_NPROC") or os.environ.get("NPROC")
