"""Checkpoints: whole or not at all, and clear about what is wrong with a file."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import unchecked_types

from jaxode.nn import ODENet
from jaxode.training import checkpoint
from jaxode.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_header,
    save_checkpoint,
)
from jaxode.training.steps import TrainState


class Tree(eqx.Module):
    weight: jax.Array
    half: jax.Array
    counts: tuple[jax.Array, ...]
    scale: float
    name: str = eqx.field(static=True)


def make_tree(seed: int = 0, width: int = 5, name: str = "saved") -> Tree:
    rng = np.random.default_rng(seed)
    weight = jnp.asarray(rng.normal(size=(3, width)).astype(np.float32))
    counts = (jnp.asarray(seed, jnp.int32), jnp.asarray([True, False]))
    return Tree(weight, weight[0].astype(jnp.bfloat16), counts, 0.5 + seed, name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.eqx"


def arrays_equal(left: Tree, right: Tree) -> bool:
    left, right = (eqx.filter(tree, eqx.is_array) for tree in (left, right))
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(
            map(np.asarray, jax.tree.leaves(left)),
            map(np.asarray, jax.tree.leaves(right)),
            strict=True,
        )
    )


def test_arrays_come_back_bit_for_bit_with_the_header(path):
    header = {"epoch": 3, "settings": {"adjoint": "backsolve", "dt0": None}}
    save_checkpoint(path, make_tree(0), header)
    tree, found = load_checkpoint(path, make_tree(1))
    assert arrays_equal(tree, make_tree(0))
    assert found == load_header(path) == header


def test_what_is_no_array_comes_from_the_given_tree(path):
    save_checkpoint(path, make_tree(0, name="saved"))
    tree, _ = load_checkpoint(path, make_tree(1, name="given"))
    assert (tree.name, tree.scale) == ("given", 1.5)


def test_first_line_is_json_that_says_what_the_file_is(path):
    save_checkpoint(path, make_tree())
    first_line = json.loads(path.read_bytes().split(b"\n")[0])
    assert first_line["format"] == "jaxode checkpoint"
    assert first_line["version"] == 2
    assert [".weight", "float32[3, 5]"] in first_line["leaves"]


@pytest.mark.parametrize("failing", ["fsync", "chmod", "replace"])
def test_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch, failing):
    save_checkpoint(path, make_tree(0))
    before = path.read_bytes()

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, make_tree(1))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_old_file_is_there_until_the_new_one_is_complete(path, monkeypatch):
    save_checkpoint(path, make_tree(0))
    replace, seen = os.replace, []

    def look_then_replace(source, target):
        both = (source, target)
        seen.extend(load_checkpoint(file, make_tree(9))[0] for file in both)
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_then_replace)
    save_checkpoint(path, make_tree(1))
    new, old = seen
    assert arrays_equal(new, make_tree(1)) and arrays_equal(old, make_tree(0))


def test_bytes_are_on_the_disk_before_the_name_and_the_name_when_it_is_over(
    path, monkeypatch
):
    fsync, replace, calls = os.fsync, os.replace, []

    def sync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("folder" if is_folder else "file")
        fsync(descriptor)

    def rename(source, target):
        calls.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    save_checkpoint(path, make_tree())
    assert calls == ["file", "name", "folder"]


def test_header_that_could_not_be_read_again_leaves_the_old_file(path, monkeypatch):
    save_checkpoint(path, make_tree(0))
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "_MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes is too large to be read again"):
        save_checkpoint(path, make_tree(1), {"history": 1000 * [0]})
    assert path.read_bytes() == before


def test_header_that_is_no_json_leaves_the_old_file(path):
    save_checkpoint(path, make_tree(0))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, make_tree(1), {"solver": object()})
    assert path.read_bytes() == before


def test_saved_file_can_be_read_by_others(path):
    previous = os.umask(0o022)
    try:
        save_checkpoint(path, make_tree())
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o644


def test_missing_file_raises(path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path, make_tree())


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file_is_named_as_such(path, fraction):
    save_checkpoint(path, make_tree())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError, match="model.eqx is truncated"):
        load_checkpoint(path, make_tree())


def test_changed_byte_is_found(path):
    save_checkpoint(path, make_tree())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.eqx is damaged"):
        load_checkpoint(path, make_tree())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n\x00",
        b"a line of text\n",
        b'{"format": "other"}\n',
        b"[]",
    ],
    ids=["empty", "png", "text", "json", "list"],
)
def test_foreign_file_is_named_as_such(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.eqx is not a jaxode checkpoint"):
        load_checkpoint(path, make_tree())


def test_newer_format_says_to_update(path):
    save_checkpoint(path, make_tree())
    content = path.read_bytes().replace(b'"version": 2', b'"version": 4', 1)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.eqx was written by a newer"):
        load_checkpoint(path, make_tree())


def test_header_without_what_is_needed_is_damaged(path):
    path.write_bytes(b'{"format": "jaxode checkpoint", "version": 1, "bytes": 0}\n')
    with pytest.raises(CheckpointError, match="its header lacks header, leaves, sha"):
        load_checkpoint(path, make_tree())


def test_other_shape_names_array_and_both_shapes(path):
    save_checkpoint(path, make_tree(width=5))
    message = r"\.weight is float32\[3, 5\], and float32\[3, 6\] is needed \(and 1 more"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, make_tree(width=6))


def test_other_dtype_is_refused(path):
    save_checkpoint(path, make_tree())
    like = eqx.tree_at(lambda t: t.half, make_tree(), jnp.zeros(5, jnp.float32))
    with pytest.raises(CheckpointError, match=r"\.half is bfloat16.*float32\[5\] is"):
        load_checkpoint(path, like)


def test_missing_and_surplus_arrays_are_refused(path):
    save_checkpoint(path, (jnp.zeros(2), jnp.zeros(3)))
    with pytest.raises(CheckpointError, match=r"\[1\] is float32\[3\], and nothing"):
        load_checkpoint(path, (jnp.zeros(2),))
    with pytest.raises(CheckpointError, match=r"\[2\] is nothing, and float32\[4\]"):
        load_checkpoint(path, (jnp.zeros(2), jnp.zeros(3), jnp.zeros(4)))


def test_checkpoint_written_by_an_earlier_version_is_read():
    """Paths of arrays in a file are an interface: those who trained keep their files.

    The file is from the first version: two channels, seed 11, three steps by SGD with
    momentum on eight images that NumPy drew from seed 5.
    """
    written = Path(__file__).with_name("saved_before.ckpt")
    optimiser = optax.sgd(0.05, momentum=0.9)
    model = ODENet(2, key=jax.random.key(0), adjoint="backsolve")
    state, header = load_checkpoint(written, TrainState.create(model, optimiser))
    assert header == {"epoch": 3} and int(state.step) == 3
    images = np.random.default_rng(5).integers(0, 256, (8, 28, 28, 1))
    logits = eqx.filter_jit(state.model)(images[:2].astype(np.uint8))
    # What the first version computed from it; observed equal.
    expected = [
        [-0.0063601, -0.1124681, -1.7939665, -0.1471483, 4.6320224]
        + [0.5982709, -1.7245239, -1.8556334, -0.5196071, 0.0815453],
        [-0.0660042, 0.6189096, -1.8127761, -0.1671344, 0.0741152]
        + [-0.0367304, -1.4887553, -1.626287, 0.5134514, 4.5428066],
    ]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_unknown_form_of_a_checkpoint_is_refused(tmp_path):
    form: Any = "zip"
    with unchecked_types(), pytest.raises(ValueError, match="form='zip' must be 'fi"):
        save_checkpoint(tmp_path / "net.eqx", jnp.ones(2), form=form)
