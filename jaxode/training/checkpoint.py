"""Checkpoints: one file, written whole or not at all, that says what it is.

The first line is a JSON header (format, version, what the caller wants to keep, and
size and hash of the arrays), then comes Equinox's serialisation of the arrays, and at
the end the hash of all that. Whatever is not an array, a solver or a tolerance for
example, comes from the tree that `load_checkpoint` is given, which is how a trained
model is read back into another solver.

Of format 3 the arrays are in a folder beside the file, written by Orbax, and in their
place are the hashes of all files in there (`sharded.py`).

Nothing in a file is run: the header is JSON, and arrays are read with pickling off.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import equinox as eqx
import jax
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from .._files import atomic_write
from . import sharded


FORMAT = "jaxode checkpoint"
# 1 had no hash at its end, so that a change of its header was not found.
_IN_FILE, _IN_FOLDER = 2, 3
FORMAT_VERSION = _IN_FOLDER
"""The newest that is read."""
_MAX_HEADER_BYTES = 2**30
"""Longer lines are not looked through for their end: they are of no checkpoint."""
_HASH_BYTES = hashlib.sha256().digest_size
_KINDS = {"bytes": int, "sha256": str, "leaves": list, "header": dict}

_Tree = TypeVar("_Tree", bound=PyTree)


class CheckpointError(Exception):
    """A file that is no checkpoint, or not the one asked for. The message names it.

    Examples:
        >>> import jaxode
        >>> with jaxode.training.atomic_write("no.ckpt") as file:
        ...     _ = file.write(b"something else")
        >>> try:
        ...     jaxode.training.load_header("no.ckpt")
        ... except jaxode.training.CheckpointError as error:
        ...     print("no.ckpt" in str(error))
        True
    """


def save_checkpoint(
    path: str | os.PathLike,
    tree: PyTree,
    header: dict[str, Any] | None = None,
    *,
    form: Literal["file", "orbax"] = "file",
) -> None:
    """Writes the arrays of `tree` to `path`, whole or not at all.

    Until the new file is complete and on the disk, whatever was at `path` stays there.

    Args:
        path: The file; its folder must exist.
        tree: Any pytree, for example a `TrainState`. Arrays only are written.
        header: Anything JSON can hold that should travel along: settings, the epoch.
        form: `"orbax"` has Orbax write the arrays into a folder beside the file, each
            device its part of those that are divided over a mesh; where it is one of
            several processes, all call this with the same `path`. The file names the
            folder and has the hashes of what is in there; folders that no checkpoint
            beside it names any more are deleted. Needs the extra `orbax`.

    Raises:
        OSError: if the file cannot be written. `path` is then as it was.
        TypeError: if `header` is not JSON.
        ValueError: for another `form`, or if `header` is larger than what
            `load_checkpoint` reads, 1 GB.
        ImportError: if Orbax is needed and missing.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> jaxode.training.save_checkpoint("net.ckpt", jnp.arange(3), {"epoch": 1})
        >>> jaxode.training.load_header("net.ckpt")
        {'epoch': 1}
    """
    path = Path(path)
    if form == "orbax":
        _save_in_folder(path, tree, header)
        return
    if form != "file":
        raise ValueError(f"form={form!r} must be 'file' or 'orbax'.")
    payload = io.BytesIO()
    eqx.tree_serialise_leaves(payload, eqx.filter(tree, eqx.is_array))
    _write(path, payload.getvalue(), tree, header, {"version": _IN_FILE})
    sharded.remove_unused(path)


def _save_in_folder(path: Path, tree: PyTree, header: dict[str, Any] | None) -> None:
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    folder = sharded.save_arrays(path, arrays)
    is_spread = sharded.is_spread(arrays)
    if not is_spread or jax.process_index() == 0:
        content = json.dumps(sharded.hash_files(folder)).encode()
        kind = {"version": _IN_FOLDER, "folder": folder.name}
        _write(path, content, tree, header, kind)
        sharded.remove_unused(path)
    if is_spread:
        multihost_utils.sync_global_devices(f"saved {folder.name}")


def _write(
    path: Path,
    content: bytes,
    tree: PyTree,
    header: dict[str, Any] | None,
    kind: dict[str, Any],
) -> None:
    first_line = {
        "format": FORMAT,
        **kind,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "leaves": _describe(tree),
        "header": header or {},
    }
    first = json.dumps(first_line).encode() + b"\n"
    if len(first) > _MAX_HEADER_BYTES:
        size = f"{len(first)} bytes, and {_MAX_HEADER_BYTES}"
        raise ValueError(f"header is too large: it has {size} at most are read again")
    whole = hashlib.sha256(first)
    whole.update(content)
    with atomic_write(path) as file:
        file.write(first)
        file.write(content)
        file.write(whole.digest())


def load_checkpoint(
    path: str | os.PathLike, like: _Tree
) -> tuple[_Tree, dict[str, Any]]:
    """Reads what `save_checkpoint` wrote into a tree of the same structure.

    Args:
        path: The file.
        like: A tree with the same arrays as the saved one, by path, shape and dtype.
            Their values are replaced; everything else is kept.

    Returns:
        The tree, and the header that was saved with it.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is foreign, truncated or damaged, of a newer
            format, or holds other arrays than `like`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> jaxode.training.save_checkpoint("net.ckpt", jnp.arange(3), {"epoch": 1})
        >>> like = jnp.zeros(3, int)
        >>> arrays, header = jaxode.training.load_checkpoint("net.ckpt", like)
        >>> print(arrays, header)
        [0 1 2] {'epoch': 1}
    """
    path = Path(path)
    first_line, content = _read(path)
    _check_leaves(path, first_line["leaves"], _describe(like))
    arrays, static = eqx.partition(like, eqx.is_array)
    try:
        if first_line["version"] == _IN_FOLDER:
            leaves, tree = jax.tree.flatten(arrays)
            found = sharded.load_arrays(path.with_name(first_line["folder"]), leaves)
            arrays = jax.tree.unflatten(tree, found)
        else:
            arrays = eqx.tree_deserialise_leaves(io.BytesIO(content), arrays)
    except ImportError:
        raise
    # Only a file that was made up comes here: its hashes are right, its arrays are not.
    except Exception as error:
        message = f"{os.fspath(path)} holds something else where its arrays should be."
        raise CheckpointError(message) from error
    return eqx.combine(arrays, static), first_line["header"]


def load_header(path: str | os.PathLike) -> dict[str, Any]:
    """The header of a checkpoint, for building the tree that `load_checkpoint` needs.

    Raises the same errors as `load_checkpoint`, and checks the whole file too.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> jaxode.training.save_checkpoint("net.ckpt", jnp.arange(3), {"epoch": 7})
        >>> jaxode.training.load_header("net.ckpt")["epoch"]
        7
    """
    return _read(Path(path))[0]["header"]


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    with path.open("rb") as file:
        line = file.readline(_MAX_HEADER_BYTES)
        first_line = _parse(path, line)
        content = file.read()
    if first_line["version"] > 1:
        content, found = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    else:
        found = None
    if len(content) != first_line["bytes"]:
        size = f"{len(content)} bytes of arrays where {first_line['bytes']} were saved"
        _fail(path, f"is truncated or was added to: {size}")
    if hashlib.sha256(content).hexdigest() != first_line["sha256"]:
        _fail(path, "is damaged: its arrays do not have the hash they were saved with")
    whole = hashlib.sha256(line)
    whole.update(content)
    if found is not None and whole.digest() != found:
        _fail(path, "is damaged: it does not have the hash it was saved with")
    if first_line["version"] == _IN_FOLDER:
        try:
            folder = path.with_name(first_line["folder"])
            sharded.check_files(folder, json.loads(content))
        # The latter two are of a file that was made up.
        except (sharded.FolderError, ValueError, TypeError) as error:
            _fail(path, str(error))
    return first_line, content


def _parse(path: Path, line: bytes) -> dict[str, Any]:
    try:
        first_line = json.loads(line)
    # The second is for a thousand brackets.
    except (ValueError, RecursionError):
        if line.startswith(json.dumps({"format": FORMAT})[:-1].encode()):
            how = "damaged" if line.endswith(b"\n") else "truncated"
            _fail(path, f"is {how}: its header cannot be read")
        first_line = None
    if not isinstance(first_line, dict) or first_line.get("format") != FORMAT:
        _fail(path, "is not a jaxode checkpoint")
    version = first_line.get("version")
    if type(version) is not int or version < 1:
        _fail(path, "is damaged: it has no format version")
    if version > FORMAT_VERSION:
        newer = f"format {version}, and this jaxode reads up to {FORMAT_VERSION}"
        _fail(path, f"was written by a newer jaxode ({newer}); update jaxode")
    kinds = _KINDS | ({"folder": str} if version == _IN_FOLDER else {})
    missing = set(kinds) - set(first_line)
    if missing:
        _fail(path, f"is damaged: its header lacks {', '.join(sorted(missing))}")
    for name, kind in kinds.items():
        if not isinstance(first_line[name], kind):
            _fail(path, f"is damaged: its {name} are no {kind.__name__}")
    leaves = first_line["leaves"]
    if not all(
        isinstance(x, list) and list(map(type, x)) == [str, str] for x in leaves
    ):
        _fail(path, "is damaged: its list of arrays cannot be read")
    return first_line


def _describe(tree: PyTree) -> list[list[str]]:
    """Path and type of every array of a tree, in order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return [
        [jax.tree_util.keystr(path), f"{leaf.dtype}{list(leaf.shape)}"]
        for path, leaf in leaves
    ]


def _check_leaves(path: Any, saved: list[list[str]], wanted: list[list[str]]) -> None:
    if saved == wanted:
        return
    here = dict(wanted)
    there = dict(saved)
    differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if not differing:
        _fail(path, "holds the arrays of this model in another order")
    key = differing[0]
    found, needed = there.get(key, "nothing"), here.get(key, "nothing")
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    _fail(path, f"is of another model: {key} is {found}, and {needed} is needed{more}")


def _fail(path: Any, what: str) -> NoReturn:
    raise CheckpointError(f"{os.fspath(path)} {what}.")
