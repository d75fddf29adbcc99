"""Inputs of the PyTorch comparison, the same for the script and for the tests.

They are drawn rather than stored, to keep the files small: `RandomState` promises the
same numbers for ever, which `default_rng` does not.
"""

from pathlib import Path

import numpy as np


FOLDER = Path(__file__).parent

# name: (batch, channels, height, width). The wide one has two channels in each group.
FIELDS = {
    "two": (3, 2, 12, 12),
    "six": (3, 6, 12, 12),
    "wide": (2, 64, 5, 4),
}
NORMS = {"one_each": (6, 6), "pairs": (32, 64)}

# Fixed steps divide [0, 1], so that both libraries walk the same grid.
STEP = 0.25
TOLERANCE = 1e-9
TIMES = (0.0, 0.4, 1.0)

# name: (channels, activation, torchdiffeq's method, whether by its adjoint). The ReLU
# field's derivative jumps, which leaves the gradient of an adaptive solve an error in
# proportion to the step, and costs the adjoint 76,000 field calls: so the adaptive
# gradients that are compared closely are those of the smooth field.
RUNS = {
    "euler_direct": (2, "relu", "euler", False),
    "euler_adjoint": (2, "relu", "euler", True),
    "midpoint_direct": (2, "relu", "midpoint", False),
    "midpoint_adjoint": (2, "relu", "midpoint", True),
    "rk4_direct": (2, "relu", "rk4", False),
    "rk4_adjoint": (2, "relu", "rk4", True),
    "dopri5_relu_direct": (2, "relu", "dopri5", False),
    "dopri5_direct": (6, "softplus", "dopri5", False),
    "dopri5_adjoint": (6, "softplus", "dopri5", True),
}

# Of the networks that PyTorch trains: channels of the post's and of the paper's, and
# residual blocks.
MODEL_CHANNELS = (2, 8)
BLOCKS = 2


def _draw(seed: int):
    return np.random.RandomState(seed).standard_normal


def field_inputs(name: str) -> dict[str, np.ndarray]:
    """Weights, state and cotangent of one field."""
    batch, channels, height, width = FIELDS[name]
    normal = _draw(100 + channels)
    state = (batch, channels, height, width)
    return {
        "conv.weight": normal((channels, channels, 3, 3)) / (3 * channels**0.5),
        "conv.bias": 0.3 * normal((channels,)),
        "gn.weight": 1 + 0.3 * normal((channels,)),
        "gn.bias": 0.3 * normal((channels,)),
        "y": 2 * normal(state) + normal((1, channels, 1, 1)),
        "cotangent": normal(state),
    }


def norm_inputs(name: str) -> dict[str, np.ndarray]:
    """Weights, state and cotangent of one group norm."""
    _, channels = NORMS[name]
    normal = _draw(200 + channels)
    state = (2, channels, 3, 4)
    return {
        "weight": 1 + 0.3 * normal((channels,)),
        "bias": 0.3 * normal((channels,)),
        "y": 2 * normal(state) + normal((1, channels, 1, 1)),
        "cotangent": normal(state),
    }


def state_dict(channels: int) -> dict[str, np.ndarray]:
    """A whole network's weights under PyTorch's names."""
    normal = _draw(300 + channels)
    features = channels * 13 * 13

    def affine():
        return 1 + 0.3 * normal((channels,)), 0.3 * normal((channels,))

    stem_scale, stem_offset = affine()
    field_scale, field_offset = affine()
    return {
        "conv1.weight": normal((channels, 1, 3, 3)) / 3,
        "conv1.bias": 0.3 * normal((channels,)),
        "gn.weight": stem_scale,
        "gn.bias": stem_offset,
        "odefunc.gn.weight": field_scale,
        "odefunc.gn.bias": field_offset,
        "odefunc.conv.weight": normal((channels, channels, 3, 3)) / (3 * channels**0.5),
        "odefunc.conv.bias": 0.3 * normal((channels,)),
        "fc.weight": normal((10, features)) / features**0.5,
        "fc.bias": 0.3 * normal((10,)),
    }


def images(batch: int) -> np.ndarray:
    """Grey levels, uint8 `(batch, 28, 28, 1)`."""
    generator = np.random.RandomState(400)
    return generator.randint(0, 256, (batch, 28, 28, 1)).astype(np.uint8)


def labels(batch: int) -> np.ndarray:
    """Classes of the images."""
    return np.arange(batch, dtype=np.int32) * 3 % 10
