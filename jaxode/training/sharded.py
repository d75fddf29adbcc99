"""The arrays of a checkpoint in a folder of Orbax's: each device writes its own part.

The checkpoint itself stays one small file that is replaced at once. It names the folder
and has the hash of every file there, so what holds for a checkpoint in one piece holds
for this one.
"""

import contextlib
import hashlib
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._optional import require


# Of any checkpoint, be it damaged or not.
_START = b'{"format":'
_NAMED = re.compile(rb'"folder": "([^"]+)"')


class FolderError(Exception):
    """A folder that is not as it was written; the message says why."""


def save_arrays(path: Path, arrays: list[Any]) -> Path:
    """Writes arrays into a new folder beside the checkpoint at `path`.

    Where they lie on devices of several processes, all of these call it, and `path` is
    the same file for all.

    Raises:
        ImportError: if Orbax, of the extra `orbax`, is missing.
        OSError: if the folder cannot be written.
    """
    number = uuid.uuid4().int % 2**31
    if is_spread(arrays):
        number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    else:
        # What every process has whole, each writes for itself.
        arrays = [x if _is_here(x) else np.asarray(x) for x in arrays]
    folder = path.absolute().with_name(f"{path.name}.{number:08x}.orbax")
    with _checkpointer(arrays) as (orbax, checkpointer):
        checkpointer.save(folder, args=orbax.args.PyTreeSave(arrays))
    return folder


def load_arrays(folder: Path, like: list[Any]) -> list[Any]:
    """Reads arrays of the shapes, types and shardings of others."""
    with _checkpointer(like) as (orbax, checkpointer):
        kinds = orbax.checkpoint_utils.construct_restore_args(like)
        wanted = orbax.args.PyTreeRestore(item=like, restore_args=kinds)
        return checkpointer.restore(folder.absolute(), args=wanted)


def hash_files(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {}
    for path in files:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = sha256
    return found


def check_files(folder: Path, expected: dict[str, str]) -> None:
    """Compares a folder with the hashes that were kept of it.

    Raises:
        FolderError: if it is gone, or any of its files is another one.
    """
    if not folder.is_dir():
        raise FolderError(f"lacks the folder of its arrays, {folder.name}")
    found = hash_files(folder)
    names = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
    if names:
        raise FolderError(
            f"is damaged: {folder.name}/{names[0]} does not have the hash it was saved "
            "with"
        )


def remove_unused(path: Path) -> None:
    """Deletes the folders of `path` that no checkpoint beside it names any more."""
    folders = list(path.parent.glob(f"{path.name}.*.orbax*"))
    if not folders:
        return
    used = set()
    for file in filter(Path.is_file, path.parent.iterdir()):
        with file.open("rb") as opened:
            if opened.read(len(_START)) == _START:
                used |= set(_NAMED.findall(opened.readline()))
    for folder in folders:
        if folder.name.encode() not in used:
            shutil.rmtree(folder, ignore_errors=True)


def is_spread(arrays: list[Any]) -> bool:
    """Whether a process has less than all of an array."""
    return not all(_is_here(x) or x.is_fully_replicated for x in arrays)


def _is_here(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable


@contextlib.contextmanager
def _checkpointer(arrays: list[Any]) -> Iterator[tuple[Any, Any]]:
    orbax = require("orbax.checkpoint", "A checkpoint in this format", "orbax")
    options = orbax.options.MultiprocessingOptions()
    if jax.process_count() > 1 and not is_spread(arrays):
        me = jax.process_index()
        options = orbax.options.MultiprocessingOptions(
            primary_host=me,
            active_processes={me},
            barrier_sync_key_prefix=f"process{me}",
        )
    handler = orbax.PyTreeCheckpointHandler(multiprocessing_options=options)
    with orbax.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        yield orbax, checkpointer
