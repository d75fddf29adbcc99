"""How much memory there is, asked before a system that promises more ends the process.

Linux grants any allocation and kills whoever uses it, without a word. So what a run
needs is compared with what there is. Accelerators refuse by themselves, in words.
"""

import contextlib
import os
from pathlib import Path

from console.command_line import InputError


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container: one file or the other, by the version of the system."""


def host_bytes() -> float:
    """Memory that this process can have; infinite where the system does not say."""
    found = float("inf")
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in _LIMITS:
        # "max" is none.
        with contextlib.suppress(ValueError, OSError):
            found = min(found, int(Path(name).read_text()))
    return found


def require_host_memory(what: str, needed: int) -> None:
    """Refuses what does not fit.

    Args:
        what: What needs the memory, to be named first.
        needed: Bytes.

    Raises:
        InputError: saying how much is needed and there is, and what to do.
    """
    there = host_bytes()
    if needed > there:
        raise InputError(
            f"{what} needs {needed / 1e9:,.1f} GB of memory, and this machine has "
            f"{there / 1e9:,.1f}. Take fewer channels, smaller batches, or another "
            "adjoint."
        )
