"""The general problems on PyTorch and torchdiffeq, on request. Run by `benchmark.py`.

It runs under another Python, the one that has PyTorch and not this project.
"""

import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchdiffeq  # pyright: ignore[reportMissingImports]

from speed.problems import PROBLEMS
from speed.serve import serve
from speed.torch_peer import versions


class Operations:
    """What `vector_fields` needs of a library."""

    tanh, sin, cos, sigmoid = torch.tanh, torch.sin, torch.cos, torch.sigmoid
    roll, stack, concatenate = torch.roll, torch.stack, torch.cat
    broadcast_to = torch.broadcast_to

    @staticmethod
    def gradient(f, x):
        """Of a function of each row."""
        x, is_recorded = _differentiable(x)
        with torch.enable_grad():
            return torch.autograd.grad(f(x).sum(), x, create_graph=is_recorded)[0]

    @staticmethod
    def with_divergence(f, x):
        """A function of each row, and its divergence."""
        x, is_recorded = _differentiable(x)
        with torch.enable_grad():
            value, divergence = f(x), 0
            for i in range(x.shape[1]):
                keep = dict(retain_graph=True, create_graph=is_recorded)
                row = torch.autograd.grad(value[:, i].sum(), x, **keep)[0]
                divergence = divergence + row[:, i]
            return value, divergence


def _differentiable(x):
    """Something equal to differentiate at, and whether a gradient of that is wanted."""
    if torch.is_grad_enabled() and x.requires_grad:
        return x, True
    return x.detach().requires_grad_(True), False


class Field(torch.nn.Module):
    """A problem's field, which counts its calls."""

    def __init__(self, problem):
        super().__init__()
        arrays = [torch.nn.Parameter(torch.tensor(x)) for x in problem.parameters]
        self.p = torch.nn.ParameterList(arrays)
        self.function = problem.field
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.function(Operations, t, y, self.p)


def prepare(request):
    """Value and gradient of a problem by one of torchdiffeq's two functions."""
    problem = PROBLEMS[request["problem"]]()
    solve = getattr(torchdiffeq, request["solve"])
    field, ts = Field(problem), torch.tensor(problem.ts)
    is_tuple = isinstance(problem.y0, tuple)
    arrays = problem.y0 if is_tuple else (problem.y0,)
    leaves = [torch.tensor(y, requires_grad=True) for y in arrays]
    inputs = [*leaves, *field.p]
    settings = dict(rtol=problem.rtol, atol=problem.atol, method="dopri5")

    def value():
        ys = solve(field, tuple(leaves) if is_tuple else leaves[0], ts, **settings)
        return torch.stack([(y**2).mean() for y in (ys if is_tuple else (ys,))]).sum()

    def run():
        for x in inputs:
            x.grad = None
        loss = value()
        loss.backward()
        return loss.item()

    # As the others' first call, without what PyTorch sets up once in a process.
    torch.ones(2, requires_grad=True).sum().backward()
    answer, start = dict(failure=None), time.perf_counter()
    try:
        answer |= dict(loss=run(), first_call_s=time.perf_counter() - start)
        np.savez(request["gradient"], *[x.grad.numpy() for x in inputs])
        field.calls = 0
        value()
        answer |= dict(calls=field.calls)
    except (AssertionError, RuntimeError) as error:
        # As "underflow in dt": a stiff problem cannot be solved backwards.
        answer = dict(failure=str(error).strip().splitlines()[0])
    return run, answer


if __name__ == "__main__":
    serve(prepare, versions)
