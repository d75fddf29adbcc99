"""Checkpoints whose arrays Orbax keeps in a folder beside them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode.training import (
    CheckpointError,
    load_checkpoint,
    load_header,
    save_checkpoint,
)


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _needs_orbax() -> None:
    pytest.importorskip("orbax.checkpoint", reason="needs the extra orbax")


def tree(seed: int) -> dict:
    weights = jax.random.normal(jax.random.key(seed), (3, 5))
    return {"weights": weights, "step": jnp.asarray(seed), "name": "kept"}


def same_bits(one: dict, other: dict) -> bool:
    names = ("weights", "step")
    return all(np.array_equal(np.asarray(one[n]), np.asarray(other[n])) for n in names)


def folders(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.orbax*"))


def test_what_was_saved_is_read_and_nothing_else_stays(tmp_path):
    path = tmp_path / "net.eqx"
    # As a kill between Orbax and the file would leave it.
    (tmp_path / "net.eqx.0badc0de.orbax").mkdir()
    for seed in (1, 2):
        save_checkpoint(path, tree(seed), {"epoch": seed}, form="orbax")
        found, header = load_checkpoint(path, tree(0))
        assert same_bits(found, tree(seed)) and header == {"epoch": seed}
        assert found["name"] == "kept"
        assert load_header(path) == header
        assert len(folders(path)) == 1


def test_one_kept_by_another_name_keeps_its_arrays(tmp_path):
    path, before = tmp_path / "net.eqx", tmp_path / "before.eqx"
    for seed in (1, 2, 3):
        if path.exists():
            path.replace(before)
        save_checkpoint(path, tree(seed), form="orbax")
    assert len(folders(path)) == 2
    assert same_bits(load_checkpoint(before, tree(0))[0], tree(2))
    assert same_bits(load_checkpoint(path, tree(0))[0], tree(3))


def test_damage_is_refused_by_name_wherever_it_is(tmp_path):
    path = tmp_path / "net.eqx"
    save_checkpoint(path, tree(1), form="orbax")
    (folder,) = folders(path)
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 5
    for file in [path, *files]:
        content = file.read_bytes()
        if not content:
            continue
        for place in {0, len(content) // 2, len(content) - 1}:
            flipped = bytearray(content)
            flipped[place] ^= 1
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=r"net\.eqx is (damaged|not a)"):
                load_checkpoint(path, tree(0))
        file.write_bytes(content)
    file = files[0]
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"net\.eqx is damaged: net\.eqx\..*/"):
        load_checkpoint(path, tree(0))
    file.write_bytes(content)
    load_checkpoint(path, tree(0))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"net\.eqx lacks the folder of its arr"):
        load_checkpoint(path, tree(0))


def test_file_that_was_added_is_refused(tmp_path):
    path = tmp_path / "net.eqx"
    save_checkpoint(path, tree(1), form="orbax")
    (folder,) = folders(path)
    (folder / "more").touch()
    with pytest.raises(CheckpointError, match=r"net\.eqx is damaged: .*orbax/more"):
        load_checkpoint(path, tree(0))


def test_folder_of_another_checkpoint_is_refused(tmp_path):
    one, other = tmp_path / "one.eqx", tmp_path / "other.eqx"
    save_checkpoint(one, tree(1), form="orbax")
    save_checkpoint(other, tree(2), form="orbax")
    (first,), (second,) = tmp_path.glob("one*.orbax"), tmp_path.glob("other*.orbax")
    first.rename(tmp_path / "away")
    second.rename(first)
    with pytest.raises(CheckpointError, match=r"one\.eqx is damaged: one\.eqx\..*/"):
        load_checkpoint(one, tree(0))


ON_FOUR_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxode.training import load_checkpoint, save_checkpoint

values = jnp.arange(48.0).reshape(8, 6)


def spread(x, count):
    mesh = Mesh(np.array(jax.devices()[:count]), "rows")
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))


path = sys.argv[1]
save_checkpoint(path, [spread(values, 4)], {"epoch": 1}, form="orbax")
for count in (4, 2, 1):
    like = spread(jnp.zeros_like(values), count)
    (found,), header = load_checkpoint(path, [like])
    assert found.sharding == like.sharding and header == {"epoch": 1}
    np.testing.assert_array_equal(found, values)
"""


def test_divided_arrays_are_read_onto_another_number_of_devices(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES, str(tmp_path / "net.eqx")],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_array_of_two_processes_is_saved_by_both_and_read_by_one(tmp_path):
    """Each has half of it; the second save takes the place of the first."""
    path = tmp_path / "net.eqx"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(Path(__file__).with_name("spread.py"))
    started = [
        subprocess.Popen(
            [sys.executable, script, port, str(process), str(path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for process in started:
            assert process.wait(120) == 0, process.communicate()[1]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    found, header = load_checkpoint(path, {"rows": jnp.zeros((4, 3))})
    np.testing.assert_array_equal(found["rows"], 2 * np.arange(12.0).reshape(4, 3))
    assert header == {"epoch": 2} and len(folders(path)) == 1
