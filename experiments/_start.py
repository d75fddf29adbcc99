"""What has to happen before JAX is imported: Ctrl-C, and flags for XLA."""

import os
import signal
import sys
import threading
from pathlib import Path


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
