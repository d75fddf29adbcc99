"""What ends a command from outside: Ctrl-C, SIGTERM, SIGHUP, a reader that is gone."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


BROKEN_PIPE = getattr(signal, "SIGPIPE", 13)
"""The number of the signal for output that nobody reads."""

_AGAIN = "Stopping once the running steps are saved; a second signal ends at once."


class Interrupted(Exception):
    """A command that has saved what it had, since a signal asked it to stop."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(f"stopped by signal {number}")


class _Asked:
    """What the command and the thread that waits for signals tell each other.

    Attributes:
        hint: What is printed at the end.
        number: The first signal that was to be obeyed later, if there was one.
        is_saving: Whether a first signal is only noted.
        lock: Held where these are read and written together.
    """

    def __init__(self):
        self.hint = "Interrupted."
        self.number: int | None = None
        self.is_saving = False
        self.lock = threading.Lock()


# A signal has no other way to what it interrupts.
_asked = _Asked()


def set_interrupt_hint(text: str) -> None:
    """What is printed from now on where a signal ends the command."""
    _asked.hint = text


def stop_asked() -> int | None:
    """The number of the signal that asks the command to stop, if one does."""
    return _asked.number


def ask_to_stop(number: int, why: str) -> None:
    """Stops the command as a signal does within `saving_first`."""
    with _asked.lock:
        first, _asked.number = _asked.number, _asked.number or number
    if first is None:
        write_error(why)


@contextlib.contextmanager
def saving_first() -> Iterator[None]:
    """While the body runs, a first signal is only noted, for `stop_asked` to tell.

    The body is to look soon, and to raise `Interrupted` when it has saved. Within
    another such block this does nothing.
    """
    before, _asked.is_saving = _asked.is_saving, True
    try:
        yield
    finally:
        with _asked.lock:
            _asked.is_saving = before


def end_on_signals() -> None:
    """Makes signals end the program within compiled code, compilation, downloads too.

    Python runs its own handler only between two bytecodes of the main thread, and a
    compilation may be ten seconds without one. So the signals are blocked and a thread
    waits for them. Every file is replaced as a whole, so nothing is lost by leaving
    here; what is computed in `saving_first` is kept.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return  # Windows: `exit_code` catches KeyboardInterrupt, a little later.
    numbers = {signal.SIGINT, signal.SIGTERM}
    # `nohup` has it ignored.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.add(signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def wait() -> None:
        while True:
            number = signal.sigwait(numbers)
            with _asked.lock:
                is_noted = _asked.is_saving and _asked.number is None
                if is_noted:
                    _asked.number = number
            if not is_noted:
                _leave(number)
            write_error(_AGAIN)

    threading.Thread(target=wait, daemon=True).start()


def forget_signals() -> None:
    """As at the start; for one process that runs several commands."""
    _asked.__init__()


def exit_of(number: int) -> int:
    """Says how to go on, and returns the exit code that convention has for a signal."""
    write_error(_asked.hint)
    return 128 + number


def _leave(number: int) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdout.isatty():
            # The progress bar had hidden the cursor.
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
    os._exit(exit_of(number))


def write_error(line: str) -> None:
    """A line on standard error, if there is somebody to read it."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
