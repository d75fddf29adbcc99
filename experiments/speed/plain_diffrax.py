"""The network as one would first write it with Equinox and Diffrax: the reference form.

`lax.conv` on (batch, channel, height, width), two-pass GroupNorm, `diffrax.Dopri5` with
`dt0=None`, Diffrax's own adjoints with their defaults. It uses nothing of jaxode, so
that the benchmark compares with what a user of Diffrax has without it, and the tests
with something that shares no line with what they test.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8


ADJOINTS = {
    "backsolve": diffrax.BacksolveAdjoint(),
    "discrete": diffrax.RecursiveCheckpointAdjoint(),
    "checkpoint": diffrax.RecursiveCheckpointAdjoint(),
    "test": diffrax.RecursiveCheckpointAdjoint(),
}


def convolve(
    x: Array, weight: Array, bias: Array, padding: int = 0, stride: int = 1
) -> Array:
    """A convolution, with so many pixels of zeros on each side."""
    sides, strides = [(padding, padding)] * 2, (stride, stride)
    y = jax.lax.conv_general_dilated(x, weight, strides, sides)
    return y + bias[None, :, None, None]


def group_norm(x: Array, groups: int, scale: Array, offset: Array) -> Array:
    """Mean 0 and variance 1 in each group of channels, scaled and moved."""
    grouped = x.reshape(x.shape[0], groups, -1)
    mean = grouped.mean(-1, keepdims=True)
    variance = grouped.var(-1, keepdims=True)
    normed = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    return normed * scale[None, :, None, None] + offset[None, :, None, None]


def solve(field: Any, y0: Array, tolerance: float, adjoint: Any) -> Array:
    """The state at time 1."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        t0=0.0,
        t1=1.0,
        dt0=None,
        y0=y0,
        stepsize_controller=diffrax.PIDController(tolerance, tolerance),
        adjoint=adjoint,
    )
    assert solution.ys is not None
    return solution.ys[0]


class Field(eqx.Module):
    """GroupNorm, ReLU, convolution, GroupNorm; counts its evaluations if asked."""

    weight: Array
    bias: Array
    scale: Array
    offset: Array
    on_call: Callable[[], None] | None = eqx.field(static=True)

    def __call__(self, t: Any, y: Array, args: Any) -> Array:
        del t, args
        if self.on_call is not None:
            jax.debug.callback(self.on_call)
        groups = min(32, self.scale.shape[0])
        y = jax.nn.relu(group_norm(y, groups, self.scale, self.offset))
        y = convolve(y, self.weight, self.bias, padding=1)
        return group_norm(y, groups, self.scale, self.offset)


class Network(eqx.Module):
    """Stem, ODE block and head.

    Attributes:
        weights: Under PyTorch's parameter names, as `jaxode.nn.to_torch` gives them.
        tolerance: Both of the solve's tolerances.
        adjoint: Diffrax's adjoint.
        on_call: Called from the device at every evaluation of the field.
    """

    weights: dict[str, Array]
    tolerance: float = eqx.field(static=True)
    adjoint: diffrax.AbstractAdjoint
    on_call: Callable[[], None] | None = eqx.field(static=True)

    def __call__(
        self, images: UInt8[Array, "batch 28 28 1"]
    ) -> Float[Array, "batch 10"]:
        w = self.weights
        x = jnp.moveaxis(images.astype(jnp.float32) / 127.5 - 1, -1, 1)
        x = convolve(x, w["conv1.weight"], w["conv1.bias"])
        channels = x.shape[1]
        y0 = jax.nn.relu(group_norm(x, channels, w["gn.weight"], w["gn.bias"]))
        field = Field(
            w["odefunc.conv.weight"],
            w["odefunc.conv.bias"],
            w["odefunc.gn.weight"],
            w["odefunc.gn.bias"],
            self.on_call,
        )
        y1 = solve(field, y0, self.tolerance, self.adjoint)
        batch, channels, height, width = y1.shape
        pooled = y1.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))
        return pooled.reshape(batch, -1) @ w["fc.weight"].T + w["fc.bias"][None]


def make_run(
    network_type: Callable[..., Any],
    weights: dict[str, np.ndarray],
    tolerance: float,
    task: str,
    batch: int,
    images: UInt8[np.ndarray, "images 28 28 1"],
    labels: Int[np.ndarray, " images"],
    on_call: Callable[[], None] | None = None,
) -> Callable[[], Any]:
    """A function that runs one training step, or scores all images batch by batch.

    `network_type` is `Network`, or something that is made and called in the same way.
    """
    arrays = {name: jnp.asarray(value) for name, value in weights.items()}
    network = network_type(arrays, tolerance, ADJOINTS[task], on_call)
    images_on_device, labels_on_device = jnp.asarray(images), jnp.asarray(labels)
    if task == "test":
        blocks = images_on_device.reshape(-1, batch, 28, 28, 1)

        @eqx.filter_jit
        def score(network, blocks):
            classify = lambda block: jnp.argmax(network(block), axis=-1)
            return jax.lax.map(classify, blocks)

        return lambda: jax.block_until_ready(score(network, blocks))

    # The rate is zero: every contestant must solve the same ODE in every round.
    optimiser = optax.sgd(0.0, momentum=0.9)

    @eqx.filter_jit
    def step(network, opt_state, images, labels):
        def loss_fn(network):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                network(images), labels
            )
            return losses.mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(network)
        updates, opt_state = optimiser.update(grads, opt_state)
        return eqx.apply_updates(network, updates), opt_state, loss

    opt_state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))
    first = images_on_device[:batch], labels_on_device[:batch]
    return lambda: jax.block_until_ready(step(network, opt_state, *first))
