"""Initial value problems whose solution, and so every gradient, is known exactly.

Each has arrays in its field, arrays in `args`, or both, and is not at rest anywhere: a
solution that settles at a fixed point has zero gradients, which test nothing.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxode._jax_versions import enable_x64


@dataclasses.dataclass(frozen=True)
class Problem:
    """One initial value problem.

    Attributes:
        field: An Equinox module, called as `field(t, y, args)`.
        y0: State at `ts[0]`.
        ts: Unevenly spaced times, increasing; reversed they are valid as well.
        args: Arrays that the field is given.
        exact: The solution as a function of `(field, y0, ts, args)`.
    """

    field: eqx.Module
    y0: PyTree
    ts: np.ndarray
    args: PyTree
    exact: Callable[[Any, PyTree, Array, PyTree], PyTree]

    def arrays(self, dtype: Any, reverse: bool = False) -> tuple[Any, ...]:
        """`(field, y0, ts, args)` in the given precision, time reversed on demand."""
        ts = self.ts[::-1].copy() if reverse else self.ts
        to_array = lambda x: jnp.asarray(x, dtype) if eqx.is_array_like(x) else x
        return jax.tree.map(to_array, (self.field, self.y0, ts, self.args))


class Decay(eqx.Module):
    """dy/dt = -rate * scale * y."""

    rate: Any

    def __call__(self, t, y, args):
        return -self.rate * args["scale"] * y


def exact_decay(field, y0, ts, args):
    elapsed = (ts - ts[0])[:, None]
    return y0[None] * jnp.exp(-(field.rate * args["scale"])[None] * elapsed)


class Rotation(eqx.Module):
    """Three points turning about the origin; the state does not contract."""

    frequency: Any

    def __call__(self, t, y, args):
        return self.frequency * jnp.stack([-y[1], y[0]])


def exact_rotation(field, y0, ts, args):
    angle = (field.frequency * (ts - ts[0]))[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = y0[0][None], y0[1][None]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


class Logistic(eqx.Module):
    """dy/dt = rate * y * (1 - y / capacity), nonlinear in the state."""

    rate: Any

    def __call__(self, t, y, args):
        return self.rate * y * (1 - y / args)


def exact_logistic(field, y0, ts, args):
    growth = jnp.exp(field.rate * (ts - ts[0]))[:, None]
    y0, capacity = y0[None], args[None]
    return capacity * y0 * growth / (capacity + y0 * (growth - 1))


class Forced(eqx.Module):
    """dy/dt = A y + b sin(w t): a wrong time in a stage or a sign shows here."""

    matrix: Any

    def __call__(self, t, y, args):
        return self.matrix @ y + args["force"] * jnp.sin(args["frequency"] * t)


def exact_forced(field, y0, ts, args):
    """The forcing is the state of an oscillator, so the whole is autonomous, linear."""
    w, zero = args["frequency"], jnp.zeros((2,), ts.dtype)
    force = jnp.stack([args["force"], zero], axis=1)
    oscillator = w * jnp.array([[0.0, 1.0], [-1.0, 0.0]], ts.dtype)
    matrix = jnp.block(
        [[field.matrix, force], [jnp.zeros((2, 2), ts.dtype), oscillator]]
    )
    start = jnp.concatenate([y0, jnp.stack([jnp.sin(w * ts[0]), jnp.cos(w * ts[0])])])
    at = lambda t: (jax.scipy.linalg.expm(matrix * (t - ts[0])) @ start)[:2]
    return jnp.stack([at(t) for t in ts])


class Stiff(eqx.Module):
    """Prothero and Robinson's problem: fast decay onto amplitude * cos(t)."""

    rate: Any

    def __call__(self, t, y, args):
        return self.rate * (args * jnp.cos(t) - y) - args * jnp.sin(t)


def exact_stiff(field, y0, ts, args):
    times, t0 = ts[:, None], ts[0]
    transient = (y0 - args * jnp.cos(t0))[None] * jnp.exp(-field.rate * (times - t0))
    return args * jnp.cos(times) + transient


class Oscillator(eqx.Module):
    """A pytree state: two oscillators, and an amount that decays beside them."""

    frequency: Any

    def __call__(self, t, y, args):
        rotate = self.frequency * y["momentum"], -self.frequency * y["position"]
        return {
            "position": rotate[0],
            "momentum": rotate[1],
            "rest": (-args * y["rest"][0],),
        }


def exact_oscillator(field, y0, ts, args):
    angle = (ts - ts[0])[:, None] * field.frequency[None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    q, p = y0["position"][None], y0["momentum"][None]
    rest = y0["rest"][0] * jnp.exp(-args * (ts - ts[0]))
    return {
        "position": cos * q + sin * p,
        "momentum": cos * p - sin * q,
        "rest": (rest,),
    }


class SideBySide(eqx.Module):
    """Several problems as one, to be compiled and solved together.

    States that are arrays become one vector, which compiles faster than many arrays;
    a state that is a pytree stays one.
    """

    fields: dict[str, Any]
    shapes: dict[str, tuple[int, ...]] = eqx.field(static=True)

    def join(self, states: dict[str, PyTree]) -> PyTree:
        """A state of the whole from the states of the problems."""
        vector = jnp.concatenate([jnp.ravel(states[name]) for name in self.shapes])
        trees = {name: y for name, y in states.items() if name not in self.shapes}
        return {"vector": vector, "trees": trees}

    def split(self, y: PyTree) -> dict[str, PyTree]:
        """The inverse of `join`; axes before the last are kept."""
        vector, states = y["vector"], dict(y["trees"])
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = jnp.split(vector, np.cumsum(sizes)[:-1], axis=-1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            states[name] = jnp.reshape(part, vector.shape[:-1] + shape)
        return states

    def __call__(self, t, y, args):
        states = self.split(y)
        return self.join({n: f(t, states[n], args[n]) for n, f in self.fields.items()})


def side_by_side(problems: dict[str, Problem]) -> Problem:
    """One problem that holds several; `field.split(ys)` gives each its own."""
    pick = lambda key: {name: getattr(p, key) for name, p in problems.items()}
    y0 = pick("y0")
    shapes = {name: y.shape for name, y in y0.items() if isinstance(y, np.ndarray)}
    field = SideBySide(pick("field"), shapes)

    def exact(field, y0, ts, args):
        starts = field.split(y0)
        rows = {
            name: problem.exact(field.fields[name], starts[name], ts, args[name])
            for name, problem in problems.items()
        }
        return jax.vmap(field.join)(rows)

    with enable_x64(True):
        start = jax.tree.map(np.asarray, field.join(y0))
    return Problem(field, start, TIMES, pick("args"), exact)


TIMES = np.array([0.2, 0.5, 0.9, 1.3])

PROBLEMS = {
    "decay": Problem(
        Decay(np.array([0.5, 1.2, 2.0])),
        np.array([1.0, -0.7, 0.4]),
        TIMES,
        {"scale": np.array(0.9)},
        exact_decay,
    ),
    "rotation": Problem(
        Rotation(np.array(2.5)),
        np.array([[1.0, 0.3, -0.5], [0.0, 0.8, 0.2]]),
        TIMES,
        None,
        exact_rotation,
    ),
    "logistic": Problem(
        Logistic(np.array(1.7)),
        np.array([0.2, 0.6]),
        TIMES,
        np.array([1.5, 1.1]),
        exact_logistic,
    ),
    "forced": Problem(
        Forced(np.array([[-0.4, 1.1], [-0.9, 0.2]])),
        np.array([0.5, -0.3]),
        TIMES,
        {"force": np.array([1.0, -0.6]), "frequency": np.array(3.0)},
        exact_forced,
    ),
    "pytree": Problem(
        Oscillator(np.array([1.5, 2.5])),
        {
            "position": np.array([1.0, 0.2]),
            "momentum": np.array([0.1, -0.5]),
            "rest": (np.array(0.7),),
        },
        TIMES,
        np.array(0.8),
        exact_oscillator,
    ),
}

ALL = side_by_side(PROBLEMS)

# The first read-out is within the fast transient, so that y0 has a gradient.
STIFF = Problem(
    Stiff(np.array(300.0)),
    np.array([2.0]),
    np.array([0.2, 0.203, 0.7]),
    np.array(1.3),
    exact_stiff,
)
