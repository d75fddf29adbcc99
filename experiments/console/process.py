"""The process of a command: Ctrl-C, exit codes, and settings of XLA:CPU."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


# Images of a batch times channels of the state: the largest product measured at which
# one thread was faster than two.
ONE_THREAD_UP_TO = 6 * 24

_hint = "Interrupted."


def set_interrupt_hint(text: str) -> None:
    """What Ctrl-C prints from now on."""
    global _hint  # noqa: PLW0603  a signal handler has no other argument
    _hint = text


def end_at_once_on_ctrl_c() -> None:
    """Makes Ctrl-C end the program within compiled code, compilation and downloads too.

    Python runs its own handler only between two bytecodes of the main thread, and a
    compilation may be ten seconds without one. So the signal is blocked and a thread
    waits for it. Every file is replaced as a whole, so nothing is lost by leaving here.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return  # Windows: `main` catches KeyboardInterrupt, a little later.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait() -> None:
        signal.sigwait({signal.SIGINT})
        if sys.stdout.isatty():
            # The progress bar had hidden the cursor.
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
        os.write(2, f"{_hint}\n".encode())
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()


def exit_code(main: Callable[[], Any], name: str) -> int:
    """Runs `main`, with a user's mistakes as one line and an exit code.

    Args:
        main: The script's work.
        name: What the script is called in the line.
    """
    end_at_once_on_ctrl_c()
    try:
        from console.command_line import InputError
    except ImportError as error:
        print(f'{error}: pip install -e ".[experiments]"', file=sys.stderr)
        return 2
    try:
        main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Turns what may be wrong with data, checkpoints and files into an `InputError`."""
    import jaxode
    from console.command_line import InputError

    try:
        yield
    except (
        jaxode.datasets.DataError,
        jaxode.training.CheckpointError,
        OSError,
    ) as error:
        raise InputError(str(error)) from error


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
