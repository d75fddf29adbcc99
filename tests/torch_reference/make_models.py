"""Trains each network that `from_torch` knows in PyTorch, and stores what it computes.

    python tests/torch_reference/make_models.py [FOLDER]

writes `models.npz`: weights after training in single precision, and with them, in
double, logits and all gradients. Needs `torch` and `torchdiffeq`; made with torch
2.13.0 and torchdiffeq 0.2.5.
"""

import sys
from pathlib import Path

import cases
import numpy as np
import torch
from make import Network, solver
from torch import nn
from torch.nn import functional as F


def norm(channels):
    return nn.GroupNorm(min(32, channels), channels)


class TimeConv(nn.Module):
    """A convolution with the time as its first channel."""

    def __init__(self, channels):
        super().__init__()
        self._layer = nn.Conv2d(channels + 1, channels, 3, padding=1)

    def forward(self, t, y):
        return self._layer(torch.cat([t * torch.ones_like(y[:, :1]), y], dim=1))


class PaperField(nn.Module):
    """Field of the ODE-Net paper."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (norm(channels) for _ in range(3))
        self.conv1, self.conv2 = TimeConv(channels), TimeConv(channels)

    def forward(self, t, y):
        y = self.conv1(t, F.relu(self.norm1(y)))
        return self.norm3(self.conv2(t, F.relu(self.norm2(y))))


class PaperBlock(nn.Module):
    """The ODE from time 0 to 1."""

    def __init__(self, channels):
        super().__init__()
        self.odefunc = PaperField(channels)

    def forward(self, y):
        solve = solver("rk4", use_adjoint=False)
        return solve(self.odefunc, y, torch.tensor([0.0, 1.0]))[1]


class PaperResidual(nn.Module):
    """Block of the paper's ResNet."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.conv1, self.conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)
        )

    def forward(self, y):
        z = self.conv1(F.relu(self.norm1(y)))
        return y + self.conv2(F.relu(self.norm2(z)))


def paper(channels, blocks):
    """The paper's network around some blocks, as torchdiffeq's example has it."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, 2, 1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, 2, 1),
        *blocks,
        norm(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


class PostBlock(nn.Module):
    """A residual block of the first post's field."""

    def __init__(self, channels):
        super().__init__()
        self.gn = norm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, y):
        return y + self.gn(self.conv(F.relu(self.gn(y))))


class PostResidual(nn.Module):
    """The first post's network with residual blocks in place of the ODE."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3)
        self.gn = nn.GroupNorm(channels, channels)
        self.blocks = nn.Sequential(*(PostBlock(channels) for _ in range(blocks)))
        self.fc = nn.Linear(channels * 13 * 13, 10)

    def forward(self, images):
        y = self.blocks(F.relu(self.gn(self.conv1(images))))
        return self.fc(F.avg_pool2d(y, 2).flatten(1))


def networks():
    """Each network, and what its images are divided by and moved by."""
    post, small = cases.MODEL_CHANNELS
    own = Network(post, "relu", solver("rk4", use_adjoint=False))
    blocks = [PaperResidual(small) for _ in range(cases.BLOCKS)]
    yield "odenet", own, (127.5, -1)
    yield "residual", PostResidual(post, cases.BLOCKS), (127.5, -1)
    yield "paper", paper(small, [PaperBlock(small)]), (255, 0)
    yield "paper-residual", paper(small, blocks), (255, 0)


def batch(count, scale):
    """Images as a network takes them, and their classes."""
    divisor, offset = scale
    images = torch.from_numpy(cases.images(count)).permute(0, 3, 1, 2).double()
    return images / divisor + offset, torch.from_numpy(cases.labels(count)).long()


def train(net, scale):
    """A few steps, after which no array is what it was drawn as."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = batch(16, scale)
    for _ in range(10):
        optimiser.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimiser.step()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.float())


def main(folder):
    """Writes the file."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    out = {}
    for name, net, scale in networks():
        train(net, scale)
        net.zero_grad()
        images, labels = batch(2, scale)
        logits = net(images)
        # Not the classes that were learned, for which all gradients are next to zero.
        F.cross_entropy(logits, (labels + 1) % 10).backward()
        out[f"{name}/logits"] = logits.detach().numpy()
        for leaf, parameter in net.named_parameters():
            out[f"{name}/weights/{leaf}"] = parameter.detach().float().numpy()
            out[f"{name}/grads/{leaf}"] = parameter.grad.numpy()
    np.savez_compressed(Path(folder) / "models.npz", **out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else cases.FOLDER)
