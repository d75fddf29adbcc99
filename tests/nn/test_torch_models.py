"""Networks that PyTorch trained: the same logits and gradients, and files of them.

`torch_reference/make_models.py` trained them and made the arrays, in double precision.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from torch_reference import cases

from jaxode import RK38
from jaxode.nn import (
    from_torch,
    ODENet,
    PaperNet,
    PaperResidualNet,
    ResidualNet,
    to_torch,
)


KINDS = {
    "odenet": ODENet,
    "residual": ResidualNet,
    "paper": PaperNet,
    "paper-residual": PaperResidualNet,
}
STEPS: dict[str, Any] = dict(solver=RK38(), rtol=None, atol=None, dt0=cases.STEP)


@pytest.fixture(scope="module")
def stored():
    with np.load(cases.FOLDER / "models.npz") as file:
        return dict(file)


def under(prefix, arrays):
    """The arrays whose names start with `prefix/`, without it."""
    start = prefix + "/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_logits_and_all_gradients_are_torchs_after_training(stored, name, plain):
    steps = STEPS if "residual" not in name else {}
    model = from_torch(under(f"{name}/weights", stored), plain=plain, **steps)
    assert type(model) is KINDS[name]
    labels = (cases.labels(2)[:, None] + 1) % 10  # not those that were learned

    def loss(model):
        logits = model(cases.images(2))
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=1)
        return -jnp.mean(picked), logits

    grads, logits = quick_jit(jax.grad(loss, has_aux=True))(model)
    found = {"logits": logits, **to_torch(grads)}
    expected = {"logits": stored[f"{name}/logits"], **under(f"{name}/grads", stored)}
    assert found.keys() == expected.keys()
    # A bias before a normalisation of each channel has a gradient of zero.
    least = 0.3 * max(np.max(np.abs(array)) for array in expected.values())
    for leaf, array in expected.items():
        scale = max(np.max(np.abs(array)), least if "bias" in leaf else 0.0)
        # Observed 4e-6 in single precision.
        np.testing.assert_allclose(
            found[leaf], array, rtol=0, atol=1e-5 * scale, err_msg=leaf
        )


@pytest.mark.parametrize("kind", KINDS.values())
def test_weights_come_back_as_they_went(kind, getkey):
    untied: dict[str, Any] = (
        {} if kind in (ODENet, PaperNet) else dict(num_blocks=3, tied=False)
    )
    model = kind(2, key=getkey(), **untied)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, from_torch(to_torch(model)), model)
    )


@pytest.mark.parametrize("kind", [ResidualNet, PaperResidualNet])
def test_tied_blocks_come_back_with_their_number(kind, getkey):
    model = kind(2, key=getkey(), num_blocks=4, tied=True)
    again = from_torch(to_torch(model), num_blocks=4)
    assert type(again) is kind
    assert getattr(again, "num_blocks", None) == 4
    assert jax.tree.all(jax.tree.map(np.array_equal, again, model))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "paper",
            lambda d: d.pop("7.odefunc.norm3.bias"),
            r"lacks 7\.odefunc\.norm3\.bias; pass the state_dict\(\) of torchdiffeq's",
        ),
        (
            "paper-residual",
            lambda d: d.update({"8.conv1.bias": d["0.bias"]}),
            r"has 8\.conv1\.bias, which the network does not; .*--network resnet",
        ),
        (
            "paper-residual",
            lambda d: d.update({"8.conv1.weight": d["0.weight"]}),
            r"8\.conv1\.weight has shape \(8, 1, 3, 3\) and needs \(8, 8, 3, 3\)",
        ),
        (
            "residual",
            lambda d: d.pop("blocks.1.gn.weight"),
            r"lacks blocks\.1\.gn\.weight; pass the .* first post's network with resid",
        ),
    ],
)
def test_bad_entries_are_named(stored, name, change, message):
    arrays = under(f"{name}/weights", stored)
    change(arrays)
    with pytest.raises(ValueError, match=message):
        from_torch(arrays)


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz, and weights are read from"):
        from_torch(tmp_path / "weights.npz")
    with pytest.raises(FileNotFoundError):
        from_torch(tmp_path / "weights.pth")


def test_safetensors_are_read(tmp_path, stored):
    writer = pytest.importorskip("safetensors.numpy")
    arrays = under("paper/weights", stored)
    path = tmp_path / "weights.safetensors"
    writer.save_file(arrays, path)
    found = to_torch(from_torch(path))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"is no \.safetensors file"):
        from_torch(path)


@pytest.mark.torch
def test_files_of_torch_are_read_and_run_nothing(tmp_path, stored):
    torch = pytest.importorskip("torch")
    import argparse

    arrays = under("paper/weights", stored)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    path = tmp_path / "weights.pth"
    # As torchdiffeq's example saves them.
    torch.save({"state_dict": tensors, "args": argparse.Namespace(lr=0.1)}, path)
    found = to_torch(from_torch(path))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    torch.save({"state_dict": tensors, "hook": Path.touch}, path)
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        from_torch(path)


@pytest.mark.slow
@pytest.mark.torch
def test_stored_models_are_what_torch_trains(tmp_path, stored):
    pytest.importorskip("torch")
    pytest.importorskip("torchdiffeq")
    script = cases.FOLDER / "make_models.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    with np.load(tmp_path / "models.npz") as file:
        for name, array in file.items():
            np.testing.assert_allclose(array, stored[name], rtol=0, atol=1e-6)
