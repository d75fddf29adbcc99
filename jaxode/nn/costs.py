"""Running costs of a solve, for `odeint(field, ..., cost=...)`.

Each is a module around the field, whose arrays it holds too: built inside the loss from
the field that is differentiated, it adds its part to the gradient.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._solve.closures import VectorField


def _square(tree: PyTree[Array]) -> Float[Array, ""]:
    return jnp.asarray(sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(tree)))


def _pull_back(field: Any, t: Any, y: PyTree, args: PyTree) -> Callable[[PyTree], Any]:
    vjp = jax.vjp(lambda y: field(t, y, args), y)[1]
    return lambda bar: vjp(bar)[0]


class KineticEnergy(eqx.Module):
    """|f(t, y, args)|^2, summed over the whole state.

    Its integral is least for straight paths at constant speed, which take few steps.

    Attributes:
        field: The vector field of the solve.
        factors: Like the state, 1 for what counts and 0 for what does not, such as rows
            that fill up a batch; all counts if `None`. Not differentiated.

    Reference:
        Finlay, Jacobsen, Nurbekyan & Oberman 2020, arXiv:2002.02798, eq. 8.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = lambda t, y, args: 2.0 * y
        >>> cost = jaxode.nn.KineticEnergy(field)
        >>> print(cost(0.0, jnp.array([1.0, 2.0]), None))  # 4 + 16
        20.0
    """

    field: VectorField
    factors: PyTree[Array] | None = None

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> Float[Array, ""]:
        speed = self.field(t, y, args)
        if self.factors is not None:
            factors = jax.lax.stop_gradient(self.factors)
            speed = jax.tree.map(jnp.multiply, speed, factors)
        return _square(speed)


class JacobianNorm(eqx.Module):
    """An estimate of the squared Frobenius norm of df/dy: |noise^T df/dy|^2.

    Its mean over noise with independent entries of variance 1 is the norm. The noise
    stays the same through a solve; draw it anew for each step of a training, such as
    `jax.random.rademacher(key, y0.shape, y0.dtype)`.

    Attributes:
        field: The vector field of the solve.
        noise: Like the state. Not differentiated.

    Reference:
        Finlay, Jacobsen, Nurbekyan & Oberman 2020, arXiv:2002.02798, section 3.2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = lambda t, y, args: 2.0 * y
        >>> cost = jaxode.nn.JacobianNorm(field, noise=jnp.array([1.0, -1.0]))
        >>> print(cost(0.0, jnp.array([1.0, 2.0]), None))
        8.0
    """

    field: VectorField
    noise: PyTree[Array]

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> Float[Array, ""]:
        noise = jax.lax.stop_gradient(self.noise)
        return _square(_pull_back(self.field, t, y, args)(noise))


class Divergence(eqx.Module):
    """The trace of df/dy over the last axis of the state, for each sample.

    Along a solution, d log p / dt = -divergence, so the log-density of a flow is

        sol = odeint(field, y0, ts, args, cost=Divergence(field))
        log_p = log_p0(y0) - sol.cost[-1]

    The state is one array. Its axes before the last are a batch, of which no sample may
    depend on another, as in a network without batch statistics.

    Attributes:
        field: The vector field of the solve.
        noise: For large states, Hutchinson's estimate from noise like the state, with
            independent entries of variance 1; `None` for the trace itself, at one
            vector-Jacobian product for each component.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, theorem 1;
        Grathwohl et al. 2019, arXiv:1810.01367, for the estimate.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> field = lambda t, y, args: 2.0 * y
        >>> print(jaxode.nn.Divergence(field)(0.0, jnp.ones((3, 2)), None))
        [4. 4. 4.]
    """

    field: VectorField
    noise: Float[Array, "*batch size"] | None = None

    def __call__(
        self, t: Any, y: Float[Array, "*batch size"], args: PyTree
    ) -> Float[Array, "*batch"]:
        pull_back = _pull_back(self.field, t, y, args)
        if self.noise is not None:
            noise = jax.lax.stop_gradient(self.noise)
            return jnp.sum(noise * pull_back(noise), axis=-1)

        def diagonal(unit):
            row = pull_back(jnp.broadcast_to(unit, y.shape))
            return jnp.sum(row * jnp.broadcast_to(unit, y.shape), axis=-1)

        units = jnp.eye(y.shape[-1], dtype=y.dtype)
        units = jnp.reshape(units, (-1,) + (1,) * (y.ndim - 1) + (y.shape[-1],))
        return jnp.sum(jax.vmap(diagonal)(units), axis=0)
