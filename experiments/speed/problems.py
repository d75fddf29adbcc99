"""The general problems: what a solve starts from, how far it goes, and how precisely.

None is a convolution: small networks, flows, models of a few states, stencils, pairs;
2 to 262,144 states, one to a hundred read-outs, tolerances from 1e-2 to 1e-7. NumPy and
the standard library only, as `vector_fields`.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from speed import vector_fields
from speed.vector_fields import Field


@dataclass(frozen=True)
class Problem:
    """An initial value problem; every array is float32.

    The loss is the mean of the squares of all states at all times, the first included,
    summed over the arrays of the state.

    Attributes:
        title: For tables.
        field: One of `vector_fields`.
        y0: The state at the first time: an array, or a tuple of them.
        parameters: What the field depends on.
        ts: The times to read the state at; the first is where the solve starts.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    title: str
    field: Field
    y0: np.ndarray | tuple[np.ndarray, ...]
    parameters: list[np.ndarray]
    ts: np.ndarray
    rtol: float
    atol: float


def _normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


def _times(end: float, read_outs: int) -> np.ndarray:
    """So many times after 0, evenly spaced."""
    return np.linspace(0, end, read_outs + 1, dtype=np.float32)


def _row(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


def _layers(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    """Weights and biases of a network of these widths; the biases are not zero."""
    random, found = np.random.RandomState(seed), []
    for i, o in itertools.pairwise(sizes):
        found += [random.randn(i, o) / np.sqrt(i), 0.1 * random.randn(1, o)]
    return [array.astype(np.float32) for array in found]


def _spiral() -> Problem:
    field, ts = vector_fields.spiral, _times(2.0, 19)
    title = "spiral: 64 x 2, MLP 2-50-2 on y^3, 20 times"
    return Problem(title, field, _normal(64, 2), _layers(2, 50, 2), ts, 1e-3, 1e-6)


def _flow() -> Problem:
    field, y0 = vector_fields.flow, (_normal(512, 2), np.zeros(512, np.float32))
    title = "flow: 512 x 2 with log-density, exact trace, MLP 3-64-64-2"
    layers, ts = _layers(3, 64, 64, 2), _times(1.0, 1)
    return Problem(title, field, y0, layers, ts, 1e-4, 1e-4)


def _lotka_volterra() -> Problem:
    field, y0 = vector_fields.lotka_volterra, np.array([10, 5], np.float32)
    title = "Lotka-Volterra: 2 states, 4 parameters, 100 times"
    rates, ts = _row(1.1, 0.4, 0.1, 0.4), _times(20.0, 99)
    return Problem(title, field, y0, rates, ts, 1e-5, 1e-5)


def _reaction_diffusion() -> Problem:
    x = np.linspace(0, 1, 4096, dtype=np.float32)
    y0 = np.exp(-100 * (x - 0.5) ** 2).astype(np.float32)
    field, p = vector_fields.reaction_diffusion, _row(1e-6 * 4096**2 / 50, 0.5)
    title = "reaction-diffusion on 4,096 points"
    return Problem(title, field, y0, p, _times(20.0, 1), 1e-4, 1e-6)


def _latent() -> Problem:
    field, ts = vector_fields.latent, _times(2.0, 49)
    title = "latent ODE: 128 x 20, MLP 20-64-64-20, 50 times"
    layers = _layers(20, 64, 64, 20)
    return Problem(title, field, _normal(128, 20), layers, ts, 1e-3, 1e-4)


def _gru() -> Problem:
    field, shape = vector_fields.gru, (32, 32)
    layers = [array for seed in range(3) for array in _layers(*shape, seed=seed)]
    title = "GRU-ODE: 64 x 32, three gates, 10 read-outs, loose"
    return Problem(title, field, _normal(64, 32), layers, _times(3.0, 10), 1e-2, 1e-2)


def _hamiltonian() -> Problem:
    field, ts = vector_fields.hamiltonian, _times(3.0, 50)
    # An energy has no zero: its last bias would have no gradient.
    layers = _layers(4, 64, 64, 1)[:-1]
    title = "Hamiltonian network: 32 x 4, gradient of MLP 4-64-64-1, 50 read-outs"
    return Problem(title, field, _normal(32, 4), layers, ts, 1e-5, 1e-6)


def _pendulum() -> Problem:
    field, y0 = vector_fields.pendulum, np.array([1.5, 0.0], np.float32)
    title = "pendulum, damped and driven: 2 states, 1 read-out, loose"
    numbers, ts = _row(4.0, 0.2, 0.5, 1.3), _times(3.0, 1)
    return Problem(title, field, y0, numbers, ts, 1e-2, 1e-3)


def _van_der_pol() -> Problem:
    field, y0 = vector_fields.van_der_pol, np.array([2.0, 0.0], np.float32)
    title = "van der Pol: 2 states, 1 read-out, tight"
    return Problem(title, field, y0, _row(3.0), _times(20.0, 1), 1e-7, 1e-7)


def _kuramoto() -> Problem:
    field, size = vector_fields.kuramoto, 256
    coupling = 2 + _normal(size, size, seed=3)
    p = [_normal(size, seed=2), coupling]
    title = "Kuramoto: 256 phases, all pairs, 10 read-outs"
    y0 = 2 * _normal(size)
    return Problem(title, field, y0, p, _times(3.0, 10), 1e-4, 1e-5)


def _lorenz96() -> Problem:
    field, forcing = vector_fields.lorenz96, 8 + 0.1 * _normal(1, 40, seed=2)
    title = "Lorenz-96: 64 x 40, 100 read-outs"
    y0 = 2 + 2 * _normal(64, 40)
    return Problem(title, field, y0, [forcing], _times(1.0, 100), 1e-4, 1e-4)


def _advection() -> Problem:
    x = np.linspace(0, 2 * np.pi, 512, endpoint=False, dtype=np.float32)
    y0 = (np.sin(x)[:, None] * np.cos(2 * x)[None, :]).astype(np.float32)
    field, p = vector_fields.advection, _row(0.8, -0.5, 0.3)
    title = "advection and diffusion: 512 x 512 points, 1 read-out, loose"
    y0 = y0 + 0.3 * _normal(512, 512)
    return Problem(title, field, y0, p, _times(10.0, 1), 1e-2, 1e-3)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "spiral": _spiral,
    "flow": _flow,
    "lotka-volterra": _lotka_volterra,
    "reaction-diffusion": _reaction_diffusion,
    "latent": _latent,
    "gru": _gru,
    "hamiltonian": _hamiltonian,
    "pendulum": _pendulum,
    "van-der-pol": _van_der_pol,
    "kuramoto": _kuramoto,
    "lorenz96": _lorenz96,
    "advection": _advection,
}
