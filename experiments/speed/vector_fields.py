"""The fields of the general problems, each written once for JAX and for PyTorch.

`field(ops, t, y, p)` with the parameters in a list of arrays. Everything that the two
libraries do not write alike is an operation of `ops`: `jax_fields.Operations` and
`torch_fields.Operations`. NumPy and the standard library only, since this runs under
the Python that has PyTorch too.
"""

from collections.abc import Callable, Sequence
from typing import Any


Field = Callable[[Any, Any, Any, Sequence[Any]], Any]


def _mlp(ops: Any, p: Sequence[Any], x: Any) -> Any:
    """Weights and biases in turns, tanh between the layers; the last bias is optional.

    Args:
        ops: The library's operations.
        p: Weights (in, out) and biases (1, out).
        x: (batch, in).
    """
    for i in range(0, len(p), 2):
        x = x @ p[i]
        x = x + p[i + 1] if i + 1 < len(p) else x
        x = ops.tanh(x) if i + 2 < len(p) else x
    return x


def spiral(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A small network on the cubes of two states."""
    return _mlp(ops, p, y**3)


def latent(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A network, as in a latent ODE."""
    return _mlp(ops, p, y)


def flow(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """Points and their log-density, which changes with the field's divergence."""
    points, _ = y
    times = ops.broadcast_to(t, (points.shape[0], 1))
    velocity = lambda x: _mlp(ops, p, ops.concatenate([x, times], 1))
    value, divergence = ops.with_divergence(velocity, points)
    return value, -divergence


def gru(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A gated recurrent unit in continuous time, without inputs."""
    reset = ops.sigmoid(y @ p[0] + p[1])
    update = ops.sigmoid(y @ p[2] + p[3])
    proposal = ops.tanh((reset * y) @ p[4] + p[5])
    return (1 - update) * (proposal - y)


def hamiltonian(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """Hamilton's equations with a network as the energy of two places, two momenta."""
    energy = lambda x: (x**2).sum(1) / 2 + _mlp(ops, p, x)[:, 0]
    slope = ops.gradient(energy, y)
    return ops.concatenate([slope[:, 2:], -slope[:, :2]], 1)


def lotka_volterra(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """Prey and predators."""
    rate, met = p[0], y[0] * y[1]
    return ops.stack([rate[0] * y[0] - rate[1] * met, rate[2] * met - rate[3] * y[1]])


def pendulum(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """Angle and angular velocity, damped and driven."""
    a = p[0]
    force = a[2] * ops.cos(a[3] * t)
    return ops.stack([y[1], force - a[0] * ops.sin(y[0]) - a[1] * y[1]])


def van_der_pol(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """An oscillator whose damping changes its sign."""
    mu = p[0][0]
    return ops.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def kuramoto(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """Phases, each pulled at by every other: a sine for each pair."""
    apart = y[None, :] - y[:, None]
    return p[0] + (p[1] * ops.sin(apart)).sum(1) / y.shape[0]


def lorenz96(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A ring of states in chaos."""
    ahead, behind = ops.roll(y, -1, 1), ops.roll(y, 1, 1)
    return (ahead - ops.roll(y, 2, 1)) * behind - y + p[0]


def reaction_diffusion(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A front on a ring: three-point diffusion, a cubic reaction."""
    a = p[0]
    diffusion = ops.roll(y, 1, 0) - 2 * y + ops.roll(y, -1, 0)
    return a[0] * diffusion - a[1] * y * (y - 0.2) * (y - 1)


def advection(ops: Any, t: Any, y: Any, p: Sequence[Any]) -> Any:
    """A pattern on a torus that drifts and blurs: five-point stencils."""
    a = p[0]
    up, down = ops.roll(y, -1, 0), ops.roll(y, 1, 0)
    right, left = ops.roll(y, -1, 1), ops.roll(y, 1, 1)
    drift = a[0] * (up - down) + a[1] * (right - left)
    return a[2] * (up + down + left + right - 4 * y) - drift / 2
