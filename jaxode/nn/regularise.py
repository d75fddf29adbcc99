"""What a training adds to a solve: costs of its trajectories, and a random end."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .costs import JacobianNorm, KineticEnergy


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

    def cost(self, key: Key[Array, ""], field: Any, y0: PyTree[Array]) -> "Penalty":
        """The running cost of a solve from `y0`, as they are integrated."""
        leaves, tree = jax.tree.flatten(y0)
        size = sum(leaf.size for leaf in leaves)
        jacobian = None
        if self.jacobian:
            keys = jax.random.split(key, len(leaves))
            noise = [
                jax.random.rademacher(k, y.shape, y.dtype)
                for k, y in zip(keys, leaves, strict=True)
            ]
            jacobian = JacobianNorm(field, jax.tree.unflatten(tree, noise))
        kinetic = KineticEnergy(field) if self.kinetic else None
        weights = (self.kinetic / size, self.jacobian / size)
        return Penalty((kinetic, jacobian), weights)

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
