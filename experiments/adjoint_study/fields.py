"""Fields whose solution is known, and so every gradient, at any horizon.

Five ways in which a state can behave in time. Solving forwards, what is close together
comes closer, keeps its distance or moves apart; solving backwards, the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from console.precision import enable_x64


class Decay(eqx.Module):
    """dy/dt = -rate * y, slow: all of the state is forgotten, little by little."""

    rate: Float[Array, "3"]

    def __call__(self, t: Any, y: Float[Array, "3"], args: Any) -> Float[Array, "3"]:
        return -self.rate * y

    def exact(self, y0: Float[Array, "3"], t: ArrayLike) -> Float[Array, "3"]:
        """The state at time `t` of the solution that starts from `y0` at time 0."""
        return y0 * jnp.exp(-self.rate * t)


class Spiral(eqx.Module):
    """dy/dt = A y, with A the matrix of a growth and a turn.

    Attributes:
        growth: At 0 the state turns about the origin; above, it spirals out.
        frequency: Of the turn, radians per unit of time.
    """

    growth: Float[Array, ""]
    frequency: Float[Array, ""]

    def __call__(self, t: Any, y: Float[Array, "2"], args: Any) -> Float[Array, "2"]:
        return self.growth * y + self.frequency * _turned(y)

    def exact(self, y0: Float[Array, "2"], t: ArrayLike) -> Float[Array, "2"]:
        """As in `Decay`."""
        angle = self.frequency * t
        at_t = jnp.cos(angle) * y0 + jnp.sin(angle) * _turned(y0)
        return jnp.exp(self.growth * t) * at_t


def _turned(y: Float[Array, "2"]) -> Float[Array, "2"]:
    """By a quarter."""
    return jnp.stack([-y[1], y[0]])


class Logistic(eqx.Module):
    """dy/dt = rate * y * (1 - y / capacity): every state ends at the capacity.

    Not linear, so the cotangent depends on the state. A linear field's does not, and
    its gradient may survive a state that was not found again.
    """

    rate: Float[Array, ""]
    capacity: Float[Array, "2"]

    def __call__(self, t: Any, y: Float[Array, "2"], args: Any) -> Float[Array, "2"]:
        return self.rate * y * (1 - y / self.capacity)

    def exact(self, y0: Float[Array, "2"], t: ArrayLike) -> Float[Array, "2"]:
        """As in `Decay`."""
        # Not with exp(+rate * t), which overflows first.
        return self.capacity / (1 + (self.capacity / y0 - 1) * jnp.exp(-self.rate * t))


class Stiff(eqx.Module):
    """Prothero and Robinson's problem: a fast decay onto amplitude * cos(t)."""

    rate: Float[Array, ""]
    amplitude: Float[Array, "1"]

    def __call__(self, t: Any, y: Float[Array, "1"], args: Any) -> Float[Array, "1"]:
        target = self.amplitude * jnp.cos(t)
        return self.rate * (target - y) - self.amplitude * jnp.sin(t)

    def exact(self, y0: Float[Array, "1"], t: ArrayLike) -> Float[Array, "1"]:
        """As in `Decay`."""
        transient = (y0 - self.amplitude) * jnp.exp(-self.rate * t)
        return self.amplitude * jnp.cos(t) + transient


@dataclass(frozen=True)
class Problem:
    """An initial value problem whose solution is known.

    Attributes:
        name: For tables and legends.
        field: A module with a method `exact(y0, t)`.
        y0: State at time 0.
    """

    name: str
    field: Any
    y0: Any

    def params(self, dtype: Any) -> tuple[Any, Array]:
        """Field and state in a precision: what gradients are taken with respect to."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), (self.field, self.y0))


def weighted_sum(y: Float[Array, " state"]) -> Float[Array, ""]:
    """A loss with a weight of its own for each entry: equal ones would hide mix-ups."""
    weights = 1 + jnp.sin(jnp.arange(y.size, dtype=y.dtype))
    return jnp.sum(weights * y)


def exact_gradient(problem: Problem, t: float) -> Any:
    """Gradient of `weighted_sum` of the state at `t`, from the closed form; float64."""

    def loss_fn(params):
        field, y0 = params
        return weighted_sum(field.exact(y0, t))

    with enable_x64(True):
        return jax.device_get(jax.grad(loss_fn)(problem.params(np.float64)))


def _problem(name: str, kind: Callable[..., Any], *numbers: Any, y0: Any) -> Problem:
    return Problem(name, kind(*map(np.asarray, numbers)), np.asarray(y0))


# The rates are such that float32 holds every state and every gradient up to time 50.
PROBLEMS = {
    problem.name: problem
    for problem in (
        _problem("decay", Decay, [0.1, 0.2, 0.3], y0=[1.0, -0.7, 0.4]),
        _problem("rotation", Spiral, 0.0, 1.0, y0=[1.0, 0.3]),
        _problem("contracting", Logistic, 1.0, [1.5, 1.1], y0=[0.2, 0.6]),
        _problem("expanding", Spiral, 1.0, 2.0, y0=[1.0, -0.5]),
        _problem("stiff", Stiff, 100.0, [1.3], y0=[2.0]),
    )
}
