"""What a command sets for XLA:CPU, before JAX starts: flags, threads and devices.

A matter for scripts, since it acts on the whole process. What the user has set stays.
"""

import importlib.metadata
import os
from pathlib import Path


# Images of a batch times channels of the state: the largest product measured at which
# one thread was faster than two.
ONE_THREAD_UP_TO = 6 * 24

# Images for which a device of its own pays. Eight did not.
IMAGES_OF_A_DEVICE = 16


def set_xla_cpu_flags(devices: int = 1) -> None:
    """Lets XLA use all of a CPU: its 512-bit vectors, and in loops all of its cores.

    The vectors are worth 10 to 25 % of a step where there are any. As for the cores:
    the XLA:CPU of jax 0.12 compiles a loop that calls no library into one kernel, for
    one core, whatever its size (arrays of 40 MB were the largest tried). Convolutions
    of more than nine channels are such loops, and a step takes 1.2 to 1.4 times as
    long on two cores. A limit of no bytes turns this off; jax 0.10 has no such kernel
    and ignores the option. To be removed once `docs/benchmark.md`'s figures are the
    same without it.

    Nothing is set where the user has set `XLA_FLAGS`.

    Args:
        devices: Into how many devices JAX is to divide the CPU.
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
    if devices > 1:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
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


def cpu_devices(images: int) -> int:
    """Into how many devices to divide a CPU that solves so many images at once.

    XLA:CPU divides each operation among its threads, which wait for each other after
    every one. Devices run the whole solve, each for its own images, and wait once for
    each of its steps: on two cores an epoch takes 0.70 to 0.86 of the time
    (`docs/benchmark.md`).

    Args:
        images: Of a batch, or of a piece of one.

    Returns:
        At most as many as cores, or as threads that the user has asked for; at least 1.
        And 1 before JAX 0.9, whose `shard_map` refuses some solves (docs/scaling.md).
    """
    version = importlib.metadata.version("jax").split(".")
    if tuple(map(int, version[:2])) < (0, 9):
        return 1
    return max(1, min(_num_cores(), images // IMAGES_OF_A_DEVICE))


def _num_cores() -> int:
    asked = threads_asked_for()
    if asked is not None and asked.isdecimal():
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
