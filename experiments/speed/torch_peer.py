"""The network on PyTorch and torchdiffeq, timed on request. Run by `benchmark.py`.

It runs under another Python, the one that has PyTorch and not this project.
"""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchdiffeq  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from speed.serve import serve


def norm(channels):
    """In at most 32 groups."""
    return nn.GroupNorm(min(32, channels), channels)


class Field(nn.Module):
    """GroupNorm, ReLU, 3x3 convolution, GroupNorm; one norm, used twice."""

    def __init__(self, channels):
        super().__init__()
        self.gn = norm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        return self.gn(self.conv(torch.relu(self.gn(y))))


class Network(nn.Module):
    """Stem, ODE block and head, with the parameter names of `jaxode.nn.to_torch`."""

    def __init__(self, channels, tolerance, solve):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3)
        self.gn = nn.GroupNorm(channels, channels)
        self.odefunc = Field(channels)
        self.fc = nn.Linear(channels * 13 * 13, 10)
        self.solve, self.tolerance = solve, tolerance

    def forward(self, images):
        y0 = torch.relu(self.gn(self.conv1(images)))
        times = torch.tensor([0.0, 1.0])
        tolerances = dict(rtol=self.tolerance, atol=self.tolerance)
        y1 = self.solve(self.odefunc, y0, times, **tolerances)[-1]
        return self.fc(nn.functional.avg_pool2d(y1, 2).flatten(1))


def halve(channels):
    """Before the block: to half the height and width."""
    return norm(channels), nn.ReLU(), nn.Conv2d(channels, channels, 4, 2, 1)


class TimeConv(nn.Module):
    """A 3x3 convolution with the time as its first channel."""

    def __init__(self, channels):
        super().__init__()
        self._layer = nn.Conv2d(channels + 1, channels, 3, padding=1)

    def forward(self, t, y):
        time = torch.ones_like(y[:, :1]) * t
        return self._layer(torch.cat([time, y], dim=1))


class PaperField(nn.Module):
    """Norm, ReLU, convolution, twice, and a norm."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (norm(channels) for _ in range(3))
        self.conv1, self.conv2 = TimeConv(channels), TimeConv(channels)
        self.calls = 0

    def forward(self, t, y):
        self.calls += 1
        y = self.conv1(t, torch.relu(self.norm1(y)))
        return self.norm3(self.conv2(t, torch.relu(self.norm2(y))))


class PaperBlock(nn.Module):
    """The state at time 1."""

    def __init__(self, channels, tolerance, solve):
        super().__init__()
        self.odefunc = PaperField(channels)
        self.solve, self.tolerance = solve, tolerance

    def forward(self, y):
        times = torch.tensor([0.0, 1.0])
        tolerances = dict(rtol=self.tolerance, atol=self.tolerance)
        return self.solve(self.odefunc, y, times, **tolerances)[-1]


class PaperNetwork(nn.Sequential):
    """The ODE-Net paper's, with the parameter names of torchdiffeq's example."""

    def __init__(self, channels, tolerance, solve):
        super().__init__(
            nn.Conv2d(1, channels, 3),
            *halve(channels),
            *halve(channels),
            PaperBlock(channels, tolerance, solve),
            norm(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, 10),
        )

    @property
    def odefunc(self):
        return self[7].odefunc


def prepare(request):
    """A training step, or the scoring of one batch after another."""
    adjoint = request["task"] == "backsolve"
    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    paper = request["network"] == "paper"
    kind = PaperNetwork if paper else Network
    network = kind(request["channels"], request["tolerance"], solve)
    with np.load(request["weights"]) as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    network.load_state_dict(state)
    with np.load(request["data"]) as data:
        images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
        labels = torch.from_numpy(data["labels"].astype(np.int64))
    batch = request["batch"]
    normalise = lambda x: x.float() / 255 if paper else x.float() / 127.5 - 1
    if request["task"] == "test":

        def run():
            with torch.no_grad():
                for start in range(0, len(images), batch):
                    network(normalise(images[start : start + batch])).argmax(1)

    else:
        # The rate is zero: every contestant must solve the same ODE in every round.
        optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)

        def run():
            optimiser.zero_grad()
            logits = network(normalise(images[:batch]))
            nn.functional.cross_entropy(logits, labels[:batch]).backward()
            optimiser.step()

    run()
    network.odefunc.calls = 0
    run()
    return run, dict(calls=network.odefunc.calls)


def versions():
    """What answers here."""
    return dict(
        torch=torch.__version__,
        torchdiffeq=torchdiffeq.__version__,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    serve(prepare, versions)
