"""What a script does around its work: Ctrl-C, exit codes, and flags for XLA."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


_hint = "Interrupted."


def set_interrupt_hint(text: str) -> None:
    """What Ctrl-C prints from now on."""
    global _hint
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
        from _command_line import InputError
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


def widen_cpu_vectors() -> None:
    """Lets XLA use 512-bit vectors on the processors that have them.

    Worth 10 to 25 % of a step on such a CPU. A matter for scripts: the flag acts on the
    whole process and must be set before JAX starts, so it is left alone where the user
    has set `XLA_FLAGS`.
    """
    if "XLA_FLAGS" in os.environ:
        return
    try:
        has_avx512 = " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    if has_avx512:
        os.environ["XLA_FLAGS"] = "--xla_cpu_prefer_vector_width=512"
