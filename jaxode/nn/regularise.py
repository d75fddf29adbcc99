"""What a training adds to a solve: costs of its trajectories, and a random end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .costs import JacobianNorm, KineticEnergy
from .shapes import State


@dataclass(frozen=True)
class Regularisers:
    """Weights of the running costs of a training, and how random its end time is.

    Attributes:
        kinetic: Weight of the integral of the mean square of dy/dt.
        jacobian: Weight of the integral of the squared Frobenius norm of df/dy, by the
            size of the state, estimated with noise drawn for each step of training.
        steer: The end time of a training step is up to so much earlier or later.

    Reference:
        Finlay, Jacobsen, Nurbekyan & Oberman 2020, arXiv:2002.02798, for the costs;
        Ghosh, Behl, Dupont, Torr & Namboodiri 2020, arXiv:2006.10711, for the end time.

    Examples:
        >>> import jax
        >>> import jaxode
        >>> price = jaxode.nn.Regularisers(kinetic=0.01, jacobian=0.01)
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0), regularisers=price)
        >>> net.regularisers.kinetic
        0.01
    """

    kinetic: float = 0.0
    jacobian: float = 0.0
    steer: float = 0.0

    def __post_init__(self):
        for name in ("kinetic", "jacobian", "steer"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name}={value} must be finite and not negative; pass 0.0."
                )

    @property
    def has_cost(self) -> bool:
        """Whether there is a running cost."""
        return self.kinetic > 0 or self.jacobian > 0

    def of_rows(
        self,
        key: Key[Array, ""],
        y0: State,
        places: Int[Array, " row"],
        counts: Bool[Array, " row"] | None,
        size: int,
        pack: Callable[[Array], Array],
    ) -> Callable[[Any, Any], "Penalty"]:
        """The running cost of a solve of some images of a batch as one ODE.

        Args:
            key: Randomness of the noise, of the whole batch.
            y0: Where the solve starts.
            places: Of each image in the batch; its noise is drawn for that.
            counts: Which images count; all if `None`.
            size: Of the state of the whole batch.
            pack: To a state as it is integrated.

        Returns:
            What `ODEBlock.solve` takes.
        """
        shape = (-1,) + (1,) * (y0.ndim - 1)
        rows = None
        if counts is not None:
            rows = jnp.broadcast_to(jnp.reshape(counts, shape), y0.shape)
            rows = pack(rows.astype(y0.dtype))
        noise = None
        if self.jacobian:
            keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
            draw = lambda k: jax.random.rademacher(k, y0.shape[1:], y0.dtype)
            noise = pack(jax.vmap(draw)(keys))
            noise = noise if rows is None else noise * rows
        return lambda field, _: self._cost(field, noise, rows, size)

    def of_each(
        self, key: Key[Array, ""], y0: State, size: int
    ) -> Callable[[Any, Any], "Penalty"]:
        """The running cost of the solve of one image, the same noise for each."""
        noise = jax.random.rademacher(key, y0.shape, y0.dtype)
        return lambda field, start: self._cost(
            field, jnp.reshape(noise, start.shape), None, size
        )

    def _cost(self, field: Any, noise: Any, rows: Any, size: int) -> "Penalty":
        jacobian = JacobianNorm(field, noise) if self.jacobian else None
        kinetic = KineticEnergy(field, rows) if self.kinetic else None
        return Penalty((kinetic, jacobian), (self.kinetic / size, self.jacobian / size))

    def end_time(self, key: Key[Array, ""], t1: Any) -> Float[Array, ""]:
        """The end of one training step's solve, around `t1`."""
        shift = jax.random.uniform(key, minval=-self.steer, maxval=self.steer)
        return jnp.asarray(t1, shift.dtype) + shift


class Penalty(eqx.Module):
    """A weighted sum of running costs.

    Attributes:
        parts: The costs; `None` for those that are left out.
        weights: Of each.
    """

    parts: tuple[Any, ...]
    weights: tuple[float, ...] = eqx.field(static=True)

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> Float[Array, ""]:
        values = [
            weight * part(t, y, args)
            for part, weight in zip(self.parts, self.weights, strict=True)
            if part is not None
        ]
        return jnp.asarray(sum(values))
