"""A checkpoint that is not what was saved is refused by name, wherever it is hurt."""

import io
import json
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_header,
    save_checkpoint,
)


TREE = {"weight": jnp.arange(6000, dtype=jnp.float32), "step": jnp.asarray(3)}
HEADER = {"epoch": 3, "history": [{"epoch": n, "test_correct": 351} for n in (1, 2)]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.eqx"
    save_checkpoint(path, TREE, HEADER)
    return path


def refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_header(path)
    except CheckpointError as error:
        return str(error).startswith(str(path))
    return False


def test_changed_history_is_found(path):
    assert refused(path, path.read_bytes().replace(b"351", b"350", 1))


@pytest.mark.slow
def test_flip_of_any_bit_of_the_header_and_of_a_bit_in_all_else_is_found(path):
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    # 797 is odd and no multiple of 8: all bits of a byte have their turn.
    places = [*range(8 * header + 16), *range(8 * header, 8 * len(whole), 797)]
    accepted = []
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        if not refused(path, bytes(damaged)):
            accepted.append(place)
    assert len(places) > 2500 and accepted == []


def test_file_cut_or_lengthened_anywhere_is_found(path):
    whole = path.read_bytes()
    lengths = [*range(0, len(whole), 1024), *range(len(whole) - 70, len(whole))]
    assert [n for n in lengths if not refused(path, whole[:n])] == []
    for more in (b"\n", b"\0" * 32, whole):
        assert refused(path, whole + more)


def test_bytes_that_changed_places_are_found(path):
    whole = path.read_bytes()
    middle = len(whole) // 2
    assert refused(path, whole[:middle] + whole[middle + 9 :] + whole[middle:][:9])


# Files that somebody made up: every hash is right


class Hostile:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def forge(path: Path, content: bytes, **changes: Any) -> None:
    first_line = json.loads(path.read_bytes().split(b"\n")[0])
    hashes = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    first = json.dumps(first_line | hashes | changes).encode() + b"\n"
    path.write_bytes(first + content + sha256(first + content).digest())


def pickled_array(trace: Path) -> bytes:
    file = io.BytesIO()
    objects = np.array([Hostile(trace)], dtype=object)
    np.lib.format.write_array(file, objects, allow_pickle=True)
    return file.getvalue()


def array_file(description: str) -> bytes:
    """A file of NumPy's whose header says this."""
    return b"\x93NUMPY\x01\x00v\x00" + description.encode().ljust(117) + b"\n"


PAYLOADS = {
    "an array of objects": pickled_array,
    "a pickle": lambda trace: pickle.dumps(Hostile(trace)),
    "an array of a terabyte": lambda trace: array_file(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"
    ),
    "an expression": lambda trace: array_file(
        f"__import__('pathlib').Path('{trace}').touch()"
    ),
    "nothing": lambda trace: b"",
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_nothing_in_a_file_is_run(path, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = Path("trace")
    forge(path, PAYLOADS[kind](trace))
    with pytest.raises(CheckpointError, match="model.eqx holds something else where"):
        load_checkpoint(path, TREE)
    assert not trace.exists()


def test_hostile_content_would_run_if_it_were_unpickled(tmp_path):
    trace = tmp_path / "trace"
    np.load(io.BytesIO(pickled_array(trace)), allow_pickle=True)
    assert trace.exists()
    other = tmp_path / "other"
    eval(f"__import__('pathlib').Path('{other}').touch()")
    assert other.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bytes": "24"}, "its bytes are no int"),
        ({"header": []}, "its header are no dict"),
        ({"leaves": [1, 2]}, "its list of arrays cannot be read"),
        ({"version": True}, "it has no format version"),
        ({"version": 0}, "it has no format version"),
        ({"version": 4}, "was written by a newer jaxode"),
    ],
)
def test_header_of_the_wrong_kind_is_damaged(path, changes, message):
    forge(path, b"", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_header(path)


def test_ten_thousand_brackets_are_no_checkpoint(path):
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(CheckpointError, match="is not a jaxode checkpoint"):
        load_header(path)


# Files of the first format, which had no hash at the end


def test_file_of_the_first_format_is_read(path):
    first, rest = path.read_bytes().split(b"\n", 1)
    old = first.replace(b'"version": 2', b'"version": 1') + b"\n" + rest[:-32]
    path.write_bytes(old)
    tree, header = load_checkpoint(path, TREE)
    assert header == HEADER
    np.testing.assert_array_equal(tree["weight"], TREE["weight"])


def test_changed_array_in_a_file_of_the_first_format_is_found(path):
    first, rest = path.read_bytes().split(b"\n", 1)
    old = first.replace(b'"version": 2', b'"version": 1') + b"\n" + rest[:-32]
    assert not refused(path, old)
    assert refused(path, old[:-3] + bytes([old[-3] ^ 1]) + old[-2:])


def test_new_file_that_says_it_is_old_is_found(path):
    whole = path.read_bytes()
    assert refused(path, whole.replace(b'"version": 2', b'"version": 1', 1))
