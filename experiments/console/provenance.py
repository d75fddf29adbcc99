"""Where numbers come from: versions, git commit, devices."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from console.xla_cpu import threads_asked_for


_PACKAGES = ("jax", "jaxlib", "jaxode", "equinox", "diffrax", "optax", "numpy")
DECIDE_ROUNDING = ("device", "xla_flags", "x64", "versions")
"""What of it two runs must share to agree in every bit."""


def provenance() -> dict[str, Any]:
    """All of it, as it stands in the files of a run."""
    return {
        "device": describe_devices(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "x64": x64_is_on(),
        "versions": versions(),
        "git_commit": git_commit(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def x64_is_on() -> bool:
    """Whether numbers are in double precision where nothing else is said."""
    return bool(jax.config.values["jax_enable_x64"])


def uses_x64(about: dict[str, Any]) -> bool:
    """Whether it was on, by the files of a run; earlier versions do not say."""
    return about.get("x64") is True


def describe_devices() -> str:
    """What JAX has found."""
    devices = jax.devices()
    text = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if devices[0].platform == "cpu":
        text += f", {os.cpu_count()} cores"
        if threads := threads_asked_for():
            text += f", threads: {threads}"
    return text


def versions() -> dict[str, str]:
    """Versions of Python and of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def git_commit() -> str | None:
    """Commit of the checkout this script is in, marked where files were changed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
