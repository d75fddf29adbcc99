"""Compiled code is kept from one start to the next."""

import re
import warnings
from pathlib import Path

import jax
import platformdirs


def use_compilation_cache() -> None:
    """Keeps compiled code in the user's cache folder, unless JAX was told where to.

    Several seconds of every start after the first. Only for a script: in a library this
    would change the settings of the program that imports it. Programs that compile in
    milliseconds are kept too: a start has dozens of them, together 1.5 s.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = Path(platformdirs.user_cache_dir("jaxode", appauthor=False), "xla")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        _drop_damaged_entries(folder)


def _drop_damaged_entries(folder: Path) -> None:
    """Deletes what a run that was killed while writing has left in the cache.

    JAX warns of such an entry and compiles, but never replaces it (`LRUCache.put` of
    jax 0.10.2 returns where the file exists), so every later start would be slow.
    """
    show = warnings.showwarning

    def show_or_mend(message, category, filename, lineno, file=None, line=None):
        pattern = r"Error reading persistent compilation cache entry for '(.+?)'"
        damaged = re.match(pattern, str(message))
        if damaged is None:
            show(message, category, filename, lineno, file, line)
        else:
            for entry in folder.glob(f"{damaged[1]}-*-cache"):
                entry.unlink(missing_ok=True)

    warnings.showwarning = show_or_mend
