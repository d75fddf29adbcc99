"""The two classical Runge-Kutta methods of order four, which Diffrax does not ship."""

from collections.abc import Callable
from typing import Any, ClassVar, TYPE_CHECKING

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .runge_kutta import stack, StepOut
from .stages import explicit_step, Terms
from .tableaus import CLASSICAL, third_order_weights, THREE_EIGHTHS


if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class _ContinuousExtension(diffrax.AbstractLocalInterpolation):
    """Dense output of order three from the four stages of a step."""

    t0: Any
    t1: Any
    y0: PyTree
    y1: PyTree
    k: PyTree[Array]
    weights: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PyTree[Array]:
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        x = (t0 - self.t0) / jnp.where(self.t1 == self.t0, 1, self.t1 - self.t0)
        b: list[Any] = [
            sum(w * x ** (power + 1) for power, w in enumerate(row))
            for row in self.weights
        ]

        def leaf(y, k):
            return y + sum(bi.astype(y.dtype) * ki for bi, ki in zip(b, k, strict=True))

        return jax.tree.map(leaf, self.y0, self.k)


class _FourStages(diffrax.AbstractSolver):
    """What the two classical methods share; `tableau` tells them apart."""

    tableau: AbstractClassVar[diffrax.ButcherTableau]

    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights = tuple(map(tuple, third_order_weights(self.tableau).tolist()))
        return eqx.Partial(_ContinuousExtension, weights=weights)

    def order(self, terms: Terms) -> int:
        del terms
        return 4

    def func(self, terms: Terms, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    def init(self, terms: Terms, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> None:
        del terms, t0, t1, y0, args

    def step(
        self,
        terms: Terms,
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree,
        solver_state: None,
        made_jump: Any,
    ) -> StepOut:
        del solver_state, made_jump
        first = terms.vf(t0, y0, args)
        y1, stages, _ = explicit_step(self.tableau, terms, t0, t1, y0, args, first)
        dense_info = dict(y0=y0, y1=y1, k=stack(stages))
        return y1, None, dense_info, None, diffrax.RESULTS.successful


class RK4(_FourStages):
    """The classical Runge-Kutta method: order 4, 4 stages, no error estimate.

    For fixed steps: `odeint(..., solver=jaxode.RK4(), rtol=None, dt0=0.1)`.

    Reference:
        Kutta 1901; Hairer, Norsett & Wanner, Solving ODEs I, II.1, table 1.2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> solver = jaxode.RK4()
        >>> decay = lambda t, y, args: -y
        >>> sol = jaxode.odeint(
        ...     decay, jnp.ones(()), [0.0, 1.0], solver=solver, rtol=None, dt0=0.25
        ... )
        >>> print(f"{sol.ys[-1]:.4f}", sol.stats.nfe)  # four steps, four calls each
        0.3679 16
    """

    tableau: ClassVar[diffrax.ButcherTableau] = CLASSICAL


class RK38(_FourStages):
    """Kutta's 3/8 rule: order 4, 4 stages, no error estimate.

    This is the method that torchdiffeq calls "rk4".

    Reference:
        Kutta 1901; Hairer, Norsett & Wanner, Solving ODEs I, II.1, table 1.2.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> solver = jaxode.RK38()
        >>> decay = lambda t, y, args: -y
        >>> sol = jaxode.odeint(
        ...     decay, jnp.ones(()), [0.0, 1.0], solver=solver, rtol=None, dt0=0.25
        ... )
        >>> print(f"{sol.ys[-1]:.4f}", sol.stats.nfe)  # four steps, four calls each
        0.3679 16
    """

    tableau: ClassVar[diffrax.ButcherTableau] = THREE_EIGHTHS
