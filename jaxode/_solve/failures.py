"""How a failed solve is reported: an exception that says which and at what time."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .._jax_versions import without_tangent
from .integrate import Integral
from .stats import SolveCounts


class SolveError(RuntimeError):
    """An ODE solve did not reach its last time.

    Raised as it is outside of `jax.jit` and `jax.vmap`; inside, JAX wraps it in an
    error of its own, a `RuntimeError` too, that contains the message. TPUs cannot raise
    at all: use `throw=False` there and look at `sol.result`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> blow_up = lambda t, y, args: y**2  # 1 / (1 - t)
        >>> try:
        ...     jaxode.odeint(blow_up, jnp.ones(()), [0.0, 2.0])
        ... except jaxode.SolveError as error:
        ...     print(error)
        The solve stopped at t=...
    """


_FINE, _MAX_STEPS, _NON_FINITE, _UNDERFLOW, _OTHER = range(5)

_MESSAGES = {
    _MAX_STEPS: (
        "{which} took max_steps={max_steps} steps and got to t={t:.6g}. Raise "
        "max_steps, loosen rtol and atol (or raise dt0, for fixed steps), or use an "
        "implicit solver such as diffrax.Kvaerno5() if the problem is stiff."
    ),
    _NON_FINITE: (
        "{which} stopped at t={t:.6g}: every step from there, however short, gave a "
        "NaN or an infinity. Check the vector field at that time, and whether the "
        "solution grows without bound."
    ),
    _UNDERFLOW: (
        "{which} stopped at t={t:.6g}: the step size fell below the resolution of the "
        "time. Check whether the solution grows without bound there; otherwise loosen "
        "rtol and atol, use float64, or use an implicit solver such as "
        "diffrax.Kvaerno5() if the problem is stiff."
    ),
    _OTHER: (
        "{which} stopped at t={t:.6g} with a failure of the solver itself; call with "
        "throw=False and look at sol.result."
    ),
}


_STEPS = " It tried {steps} steps and threw {rejected} of them away."
_MORE = " Outside of jax.jit and jax.vmap this tells which component rules them."


def _code(solve: Integral) -> Array:
    results = diffrax.RESULTS
    underflow = jnp.where(solve.non_finite, _NON_FINITE, _UNDERFLOW)
    code = jnp.where(solve.result == results.dt_min_reached, underflow, _OTHER)
    code = jnp.where(solve.result == results.max_steps_reached, _MAX_STEPS, code)
    return jnp.where(solve.stats.success, _FINE, code)


def counts_of(solve: Integral) -> SolveCounts:
    """What a solve did and how it ended, as numbers that can be summed."""
    code, stats = _code(solve), solve.stats
    return SolveCounts.of(
        nfe=jnp.nan if stats.nfe is None else stats.nfe,
        num_steps=stats.num_steps,
        num_accepted_steps=stats.num_accepted_steps,
        num_rejected_steps=stats.num_rejected_steps,
        num_solves=1,
        num_max_steps=code == _MAX_STEPS,
        num_non_finite=code == _NON_FINITE,
        num_underflow=code == _UNDERFLOW,
        num_other_failures=code == _OTHER,
    )


def raise_if_failed(
    values: PyTree[Array],
    solve: Integral,
    which: str,
    max_steps: int | None,
    more: Callable[[], str] = lambda: "",
) -> PyTree[Array]:
    """`values`, or a `SolveError` where `solve` failed.

    Outside of `jax.jit` and `jax.vmap`, `more()` ends the message.

    The message carries the time that was reached, which `equinox.error_if` cannot, so
    the callback is our own. It runs only where a solve has failed.
    """

    def check(*numbers: Any, more: str = _MORE) -> np.ndarray:
        # Leading axes under `vmap`; one failure is enough to tell of.
        solves = np.broadcast(*map(np.asarray, numbers))
        for code, t, steps, rejected in solves:
            if int(code) != _FINE:
                message = _MESSAGES[int(code)] + _STEPS
                raise SolveError(
                    message.format(
                        which=which,
                        max_steps=max_steps,
                        t=float(t),
                        steps=int(steps),
                        rejected=int(rejected),
                    )
                    + more
                )
        return np.ones(solves.shape, bool)

    code = _code(solve)
    stats = solve.stats
    numbers = (code, solve.t_reached, stats.num_steps, stats.num_rejected_steps)
    numbers = jax.lax.stop_gradient(numbers)
    if not isinstance(numbers[0], Tracer):
        if int(numbers[0]) != _FINE:
            check(*numbers, more=more())
        return values
    return checked(values, code == _FINE, check, *numbers)


def raise_where(
    values: PyTree[Array], code: Array, t: Array, message: Callable[[int, float], str]
) -> PyTree[Array]:
    """`values`, or a `SolveError` with `message(code, t)` where `code` is not 0."""

    def check(code: Any, t: Any) -> np.ndarray:
        solves = np.broadcast(np.asarray(code), np.asarray(t))
        for c, when in solves:
            if int(c) != _FINE:
                raise SolveError(message(int(c), float(when)))
        return np.ones(solves.shape, bool)

    code, t = jax.lax.stop_gradient((code, t))
    return checked(values, code == _FINE, check, code, t)


def checked(
    values: PyTree[Array],
    fine: Array,
    check: Callable[..., np.ndarray],
    *numbers: Array,
) -> PyTree[Array]:
    """`values`, after `check(*numbers)` has had the chance to raise if not `fine`.

    Args:
        values: Any arrays.
        fine: Whether there is nothing to raise for.
        check: Raises, or returns `True` for each of the leading axes under `vmap`.
        *numbers: What it is called with, not differentiated. Arrays of NumPy.
    """
    if not any(isinstance(number, Tracer) for number in numbers):
        check(*numbers)
        return values
    numbers = tuple(map(without_tangent, numbers))
    fine = jax.lax.cond(
        fine,
        lambda: jnp.array(True),
        lambda: jax.pure_callback(
            check,
            jax.ShapeDtypeStruct((), bool),
            *numbers,
            vmap_method="expand_dims",
        ),
    )
    # Never false; it only ties the check to the values, or the compiler drops it.
    return jax.tree.map(lambda v: jnp.where(fine, v, jnp.nan), values)
