"""Fields whose solution is known, and so every gradient, at any horizon.

Five ways in which a state can behave in time. Solving forwards, what is close together
comes closer, keeps its distance or moves apart; solving backwards, the other way round.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float


class Decay(eqx.Module):
    """dy/dt = -rate * y, slow: all of the state is forgotten, little by little."""

    rate: Float[Array, "3"]

    def __call__(self, t: Any, y: Float[Array, "3"], args: Any) -> Float[Array, "3"]:
        return -self.rate * y

    def exact(self, y0: Float[Array, "3"], t: ArrayLike) -> Float[Array, "3"]:
        """The state at time `t` of the solution that starts from `y0` at time 0."""
        return y0 * jnp.exp(-self.rate * t)


class Spiral(eqx.Module):
    """dy/dt = A (y - centre), with A the matrix of a growth and a turn.

    Attributes:
        growth: Below 0 the state spirals into the centre and forgets where it came
            from; at 0 it turns; above, it spirals out.
        frequency: Of the turn, radians per unit of time.
        centre: Where the field is zero.
    """

    growth: Float[Array, ""]
    frequency: Float[Array, ""]
    centre: Float[Array, "2"]

    def __call__(self, t: Any, y: Float[Array, "2"], args: Any) -> Float[Array, "2"]:
        x = y - self.centre
        turned = jnp.stack([-x[1], x[0]])
        return self.growth * x + self.frequency * turned

    def exact(self, y0: Float[Array, "2"], t: ArrayLike) -> Float[Array, "2"]:
        """As in `Decay`."""
        x, angle = y0 - self.centre, self.frequency * t
        turned = jnp.stack([-x[1], x[0]])
        at_t = jnp.cos(angle) * x + jnp.sin(angle) * turned
        return self.centre + jnp.exp(self.growth * t) * at_t


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
        name: For tables.
        label: For legends: its name with what decides its behaviour.
        field: A module with a method `exact(y0, t)`.
        y0: State at time 0.
    """

    name: str
    label: str
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

    with jax.enable_x64(True):
        return jax.device_get(jax.grad(loss_fn)(problem.params(np.float64)))


def _spiral(growth: float, frequency: float, centre: tuple[float, float]) -> Spiral:
    return Spiral(*map(np.asarray, (growth, frequency, centre)))  # pyright: ignore[reportArgumentType]


# The rates are such that float32 holds every state and every gradient up to time 50.
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "decay",
            "decay, rates 0.1 to 0.3",
            Decay(np.array([0.1, 0.2, 0.3])),  # pyright: ignore[reportArgumentType]
            np.array([1.0, -0.7, 0.4]),
        ),
        Problem(
            "rotation",
            "rotation, frequency 1",
            _spiral(0.0, 1.0, (0.0, 0.0)),
            np.array([1.0, 0.3]),
        ),
        Problem(
            "contracting",
            "contracting, rate 1",
            _spiral(-1.0, 2.0, (1.0, 0.5)),
            np.array([2.0, -1.0]),
        ),
        Problem(
            "expanding",
            "expanding, rate 1",
            _spiral(1.0, 2.0, (0.2, 0.1)),
            np.array([1.0, -0.5]),
        ),
        Problem(
            "stiff",
            "stiff, rate 100",
            Stiff(np.array(100.0), np.array([1.3])),  # pyright: ignore[reportArgumentType]
            np.array([2.0]),
        ),
    )
}
