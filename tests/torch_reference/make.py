"""Computes the PyTorch reference arrays, in double precision.

    python tests/torch_reference/make.py [FOLDER]

writes `fields.npz` and `networks.npz` (beside this file if no folder is given). Needs
`torch` and `torchdiffeq`, which jaxode and its tests do not. Made with torch 2.13.0 and
torchdiffeq 0.2.5.
"""

import sys
from pathlib import Path

import cases
import numpy as np
import torch
import torchdiffeq
from torch import nn
from torch.nn import functional as F


class Field(nn.Module):
    """GroupNorm, ReLU (or softplus), convolution, and the same GroupNorm again."""

    def __init__(self, channels, activation="relu"):
        super().__init__()
        self.activation = getattr(F, activation)
        self.gn = nn.GroupNorm(min(32, channels), channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, t, y):
        return self.gn(self.conv(self.activation(self.gn(y))))


class Network(nn.Module):
    """The first post's classifier; `solve` is the ODE solver that it calls."""

    def __init__(self, channels, activation, solve):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3)
        self.gn = nn.GroupNorm(channels, channels)
        self.odefunc = Field(channels, activation)
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(channels * 13 * 13, 10)
        self.solve = solve

    def stem(self, images):
        return F.relu(self.gn(self.conv1(images)))

    def forward(self, images):
        times = torch.tensor([0.0, 1.0])
        y1 = self.solve(self.odefunc, self.stem(images), times)[1]
        return self.fc(self.pool(y1).flatten(1))


def solver(method, use_adjoint):
    """Torchdiffeq's solve with the settings that `cases` fixes."""
    solve = torchdiffeq.odeint_adjoint if use_adjoint else torchdiffeq.odeint
    if method == "dopri5":
        settings = dict(rtol=cases.TOLERANCE, atol=cases.TOLERANCE)
    else:
        settings = dict(options=dict(step_size=cases.STEP))
    return lambda field, y0, ts: solve(field, y0, ts, method=method, **settings)


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def pull_back(function, inputs, cotangent):
    """The value of `function(*inputs)` and its VJP with respect to each input."""
    inputs = [x.requires_grad_() for x in inputs]
    value = function(*inputs)
    return value.detach(), torch.autograd.grad(value, inputs, cotangent)


def fields(out):
    """One field call, and one group norm, with their VJPs."""
    for name in cases.FIELDS:
        arrays = tensors(cases.field_inputs(name))
        y, cotangent = arrays.pop("y"), arrays.pop("cotangent")
        field = Field(y.shape[1])
        field.load_state_dict(arrays)
        names = [*arrays, "y"]

        def call(*leaves, field=field, names=names):
            weights = dict(zip(names, leaves, strict=True))
            y = weights.pop("y")
            return torch.func.functional_call(field, weights, (0.0, y))

        value, grads = pull_back(call, [*arrays.values(), y], cotangent)
        out[f"{name}/value"] = value
        for leaf, grad in zip(names, grads, strict=True):
            # The wide kernel's gradient would be most of the file: a corner will do.
            is_large = leaf == "conv.weight" and name == "wide"
            out[f"{name}/{leaf}"] = grad[:8, :8] if is_large else grad
    for name, (groups, _) in cases.NORMS.items():
        arrays = tensors(cases.norm_inputs(name))
        cotangent = arrays.pop("cotangent")

        def call(weight, bias, y, groups=groups):
            return F.group_norm(y, groups, weight, bias)

        value, grads = pull_back(call, list(arrays.values()), cotangent)
        out[f"norm_{name}/value"] = value
        for leaf, grad in zip(arrays, grads, strict=True):
            out[f"norm_{name}/{leaf}"] = grad


def networks(out):
    """Stem, logits, loss gradients through the solver and by the adjoint."""
    images = torch.from_numpy(cases.images(2)).permute(0, 3, 1, 2).double() / 127.5 - 1
    labels = torch.from_numpy(cases.labels(2)).long()
    for name, (channels, activation, method, use_adjoint) in cases.RUNS.items():
        net = Network(channels, activation, solver(method, use_adjoint))
        net.load_state_dict(tensors(cases.state_dict(channels)))
        logits = net(images)
        F.cross_entropy(logits, labels).backward()
        out[f"{name}/logits"] = logits
        for leaf, parameter in net.named_parameters():
            # The head lies after the solve: both ways give it the same gradient.
            if not (use_adjoint and leaf.startswith("fc.")):
                out[f"{name}/{leaf}"] = parameter.grad
        out[f"{name}/stem"] = net.stem(images)[:, :, ::5, ::5]


def times(out):
    """Gradient with respect to read-out times, state and weights."""
    arrays = tensors(cases.field_inputs("two"))
    y0, cotangent = arrays.pop("y"), arrays.pop("cotangent")
    field = Field(y0.shape[1], "softplus")
    field.load_state_dict(arrays)
    ts = torch.tensor(cases.TIMES)
    solve = solver("dopri5", True)
    weights = torch.tensor([0.5, -1.0, 2.0]).reshape(3, 1, 1, 1, 1)

    def call(ts, y0):
        return solve(field, y0, ts)

    value, grads = pull_back(call, [ts, y0], weights * cotangent)
    out["times/ys"] = value[-1]
    out["times/ts"], out["times/y0"] = grads


def main(folder):
    """Writes both files."""
    torch.set_default_dtype(torch.float64)
    # Several threads take longer over tensors this small, and add up differently.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for file, parts in (("fields", (fields,)), ("networks", (networks, times))):
        out = {}
        for part in parts:
            part(out)
        arrays = {name: value.detach().numpy() for name, value in out.items()}
        np.savez_compressed(Path(folder) / f"{file}.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else cases.FOLDER)
