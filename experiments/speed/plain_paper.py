"""The ODE-Net paper's network as one would first write it: see `plain_diffrax`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from speed.plain_diffrax import convolve, group_norm, Network, solve


class PaperField(eqx.Module):
    """Norm, ReLU, convolution, twice, and a norm; counts its evaluations if asked."""

    weights: dict[str, Array]
    on_call: Callable[[], None] | None = eqx.field(static=True)

    def __call__(self, t: Any, y: Array, args: Any) -> Array:
        del args
        if self.on_call is not None:
            jax.debug.callback(self.on_call)
        for i in ("1", "2"):
            y = jax.nn.relu(_normalise(self.weights, f"norm{i}", y))
            time = jnp.broadcast_to(t, y[:, :1].shape).astype(y.dtype)
            y = jnp.concatenate([time, y], axis=1)
            name = f"conv{i}._layer"
            weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            y = convolve(y, weight, bias, padding=1)
        return _normalise(self.weights, "norm3", y)


class PaperNetwork(Network):
    """Stem of three convolutions, ODE block and pooled head."""

    def __call__(
        self, images: UInt8[Array, "batch 28 28 1"]
    ) -> Float[Array, "batch 10"]:
        w = self.weights
        x = jnp.moveaxis(images.astype(jnp.float32) / 255, -1, 1)
        x = convolve(x, w["0.weight"], w["0.bias"])
        for norm, conv in (("1", "3"), ("4", "6")):
            x = jax.nn.relu(_normalise(w, norm, x))
            x = convolve(x, w[f"{conv}.weight"], w[f"{conv}.bias"], 1, stride=2)
        prefix = "7.odefunc."
        of_field = {k.removeprefix(prefix): v for k, v in w.items() if prefix in k}
        field = PaperField(of_field, self.on_call)
        y1 = solve(field, x, self.tolerance, self.adjoint)
        pooled = jax.nn.relu(_normalise(w, "8", y1)).mean((2, 3))
        return pooled @ w["12.weight"].T + w["12.bias"][None]


def _normalise(weights: dict[str, Array], name: str, x: Array) -> Array:
    groups = min(32, x.shape[1])
    return group_norm(x, groups, weights[f"{name}.weight"], weights[f"{name}.bias"])
