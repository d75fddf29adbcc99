"""Equivalence with PyTorch and torchdiffeq, from arrays that they computed.

`torch_reference/make.py` made the arrays, in double precision.
"""

import subprocess
import sys
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, some_slow
from torch_reference import cases

from jaxode import odeint, RK38
from jaxode.nn import ConvField, from_torch, ODEBlock, ODENet, to_torch
from jaxode.nn.kernels.plain import group_norm_plain


SOLVERS = {
    "euler": diffrax.Euler(),
    "midpoint": diffrax.Midpoint(),
    # Its name in torchdiffeq; the classical method is another one.
    "rk4": RK38(),
}


@pytest.fixture(scope="module")
def fields():
    with np.load(cases.FOLDER / "fields.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def networks():
    with np.load(cases.FOLDER / "networks.npz") as file:
        return dict(file)


def solve_settings(method) -> dict[str, Any]:
    """The settings of a solve that torchdiffeq made by `method`."""
    if method == "dopri5":
        return dict(rtol=cases.TOLERANCE, atol=cases.TOLERANCE, max_steps=4096)
    return dict(solver=SOLVERS[method], rtol=None, atol=None, dt0=cases.STEP)


def field_from(arrays, **settings):
    field = ConvField(arrays["gn.bias"].size, key=jax.random.key(0), **settings)
    names = ("conv.weight", "conv.bias", "gn.weight", "gn.bias")
    return eqx.tree_at(
        lambda f: (f.conv.weight, f.conv.bias, f.norm.weight, f.norm.bias),
        field,
        tuple(jnp.asarray(arrays[name]) for name in names),
    )


def field_leaves(field):
    return {
        "conv.weight": field.conv.weight,
        "conv.bias": field.conv.bias,
        "gn.weight": field.norm.weight,
        "gn.bias": field.norm.bias,
    }


def assert_close(actual, expected, tolerance):
    """Compares dictionaries; errors are relative to the largest entry, or to 1."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        scale = max(1.0, np.max(np.abs(array)))
        np.testing.assert_allclose(
            actual[name], array, rtol=0, atol=tolerance * scale, err_msg=name
        )


def under(prefix, arrays):
    """The arrays whose names start with `prefix/`, without it."""
    return {
        name.removeprefix(prefix + "/"): array
        for name, array in arrays.items()
        if name.startswith(prefix + "/")
    }


@pytest.mark.parametrize("plain", some_slow([False, True], False))
@pytest.mark.parametrize("name", cases.FIELDS)
def test_field_and_its_gradients_are_torchs(x64, fields, name, plain):
    inputs = cases.field_inputs(name)
    field = field_from(inputs, plain=plain)
    arrays, static = eqx.partition(field, eqx.is_array)
    value, pullback = jax.vjp(
        lambda arrays, y: eqx.combine(arrays, static)(0.0, y, None),
        arrays,
        jnp.asarray(inputs["y"]),
    )
    grads, y_bar = pullback(jnp.asarray(inputs["cotangent"]))
    actual = {"value": value, "y": y_bar, **field_leaves(grads)}
    if name == "wide":
        actual["conv.weight"] = actual["conv.weight"][:8, :8]
    # Observed 4e-14, in a bias whose gradient is zero; 1e-15 elsewhere.
    assert_close(actual, under(name, fields), 1e-12)


@pytest.mark.parametrize("name", cases.NORMS)
def test_group_norm_and_its_gradients_are_torchs(x64, fields, name):
    groups, _ = cases.NORMS[name]
    inputs = {k: jnp.asarray(v) for k, v in cases.norm_inputs(name).items()}
    cotangent = inputs.pop("cotangent")
    value, pullback = jax.vjp(
        lambda arrays: group_norm_plain(
            arrays["y"], arrays["weight"], arrays["bias"], groups
        ),
        inputs,
    )
    (grads,) = pullback(cotangent)
    # Observed 6e-16.
    assert_close({"value": value, **grads}, under(f"norm_{name}", fields), 1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "run", some_slow(["euler_direct", "dopri5_direct"], "euler_direct")
)
def test_stem_is_torchs(x64, networks, run, plain):
    model = from_torch(cases.state_dict(cases.RUNS[run][0]), plain=plain)
    y0 = model.stem(cases.images(2))[:, :, ::5, ::5]
    # Observed 1e-14.
    assert_close({"y0": y0}, {"y0": networks[f"{run}/stem"]}, 1e-12)


# run: bounds on the errors of the logits and of the gradients. Observed in fixed steps:
# 4e-15, since both libraries do the same arithmetic, the backward solve included.
TOLERANCES = {name: (1e-12, 1e-12) for name in cases.RUNS if "dopri5" not in name} | {
    # The two choose their steps differently. Observed 6e-7 and 2e-3: see `cases.RUNS`.
    # jaxode's own logits move by 6e-7 from this tolerance to 1e-11.
    "dopri5_relu_direct": (1e-5, 1e-2),
    # Observed 5e-9.
    "dopri5_direct": (1e-7, 1e-7),
    "dopri5_adjoint": (1e-7, 1e-7),
}
USUAL_RUNS = ("rk4_adjoint",)


@pytest.mark.parametrize("run", some_slow(cases.RUNS, *USUAL_RUNS))
def test_network_and_its_gradients_are_torchs(x64, networks, run):
    channels, activation, method, use_adjoint = cases.RUNS[run]
    model = from_torch(
        cases.state_dict(channels),
        activation=activation,
        adjoint="backsolve" if use_adjoint else "checkpoint",
        **solve_settings(method),
    )
    labels = cases.labels(2)[:, None]

    def loss(model):
        logits, stats = model.with_stats(cases.images(2))
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels, axis=1)
        return -jnp.mean(picked), (logits, stats)

    grads, (logits, stats) = quick_jit(jax.grad(loss, has_aux=True))(model)
    assert bool(stats.success)
    expected = under(run, networks)
    expected.pop("stem")
    logits_bound, gradient_bound = TOLERANCES[run]
    assert_close({"logits": logits}, {"logits": expected.pop("logits")}, logits_bound)
    grads = {k: v for k, v in to_torch(grads).items() if k in expected}
    assert len(grads) == (8 if use_adjoint else 10)
    assert_close(grads, expected, gradient_bound)


def test_gradients_with_respect_to_times_are_torchs(x64, networks):
    inputs = cases.field_inputs("two")
    field = field_from(inputs, activation="softplus")
    weights = jnp.array([0.5, -1.0, 2.0])[:, None, None, None, None]

    def loss(ts, y0):
        solution = odeint(
            field, y0, ts, adjoint="backsolve", **solve_settings("dopri5")
        )
        return jnp.sum(weights * inputs["cotangent"][None] * solution.ys), solution.ys

    (ts_bar, y0_bar), ys = quick_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        jnp.array(cases.TIMES), jnp.asarray(inputs["y"])
    )
    actual = {"ts": ts_bar, "y0": y0_bar, "ys": ys[-1]}
    # Observed 1e-9.
    assert_close(actual, under("times", networks), 1e-7)


def test_weights_survive_the_round_trip(getkey):
    model = ODENet(2, key=getkey(), adjoint="backsolve")
    again = from_torch(to_torch(model), adjoint="backsolve")
    assert eqx.tree_equal(again, model)


def test_torchs_names_are_those_of_the_posts_network(getkey):
    assert to_torch(ODENet(2, key=getkey())).keys() == cases.state_dict(2).keys()


class Tensor:
    """As much of a PyTorch tensor as there is to a weight that is being trained."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return DetachedTensor(self._array)


class DetachedTensor:
    """NumPy refuses tensors on another device, so `cpu` comes before `numpy`."""

    def __init__(self, array):
        self._array = array

    def cpu(self):
        return DetachedTensorInMemory(self._array)


class DetachedTensorInMemory:
    """A tensor that NumPy can read."""

    def __init__(self, array):
        self._array = array

    def numpy(self):
        return self._array


def test_tensors_are_taken_as_they_come(x64):
    arrays = cases.state_dict(2)
    model = from_torch({name: Tensor(array) for name, array in arrays.items()})
    np.testing.assert_array_equal(model.head.weight, arrays["fc.weight"])


def test_double_precision_weights_become_single_where_jax_is_single():
    assert from_torch(cases.state_dict(2)).head.weight.dtype == jnp.float32


def test_the_blocks_second_copy_of_the_field_is_left_out(x64):
    # The post's listing registers the field in the network and in its block.
    arrays = cases.state_dict(2)
    copies = {f"odeblock.{k}": v for k, v in arrays.items() if k.startswith("odefunc")}
    assert eqx.tree_equal(from_torch(arrays | copies), from_torch(arrays))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("gn.bias"), r"lacks gn\.bias; pass the state_dict\(\) of"),
        (lambda d: d.update(a=d["gn.bias"]), "has a, which the network does not"),
        (
            lambda d: d.update({"fc.weight": d["fc.weight"].T}),
            r"fc\.weight has shape \(338, 10\) and needs \(10, 338\)",
        ),
        (
            lambda d: d.update({"gn.weight": np.ones(6)}),
            r"network of 2 channels .*gn\.weight has shape \(6,\) and needs \(2,\)",
        ),
    ],
    ids=["missing", "unknown", "transposed", "of_another_width"],
)
def test_bad_state_dict_is_refused_by_name(change, message):
    arrays = cases.state_dict(2)
    change(arrays)
    with pytest.raises(ValueError, match=message):
        from_torch(arrays)


def test_network_with_another_field_has_no_counterpart(getkey):
    model = ODENet(2, key=getkey())
    other = eqx.tree_at(lambda m: m.block, model, ODEBlock(lambda t, y, args: -y))
    with pytest.raises(TypeError, match="field is a function; only a ConvField"):
        to_torch(other)


@pytest.mark.slow
@pytest.mark.torch
def test_stored_arrays_are_what_torch_computes(tmp_path, fields, networks):
    pytest.importorskip("torch")
    pytest.importorskip("torchdiffeq")
    script = cases.FOLDER / "make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    for name, stored in (("fields", fields), ("networks", networks)):
        with np.load(tmp_path / f"{name}.npz") as file:
            # Another release may round differently, and then choose other steps.
            # Observed 0.
            assert_close(dict(file), stored, 1e-8)
