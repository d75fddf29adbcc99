"""What rules the step where a solve gave up: which component, and whether stability.

Only a solve that failed outside of `jax.jit` is looked at, so that no other pays.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from .._steps.carried import controlled
from .arguments import as_constant
from .integrate import Integral
from .settings import SolveSettings
from .setup import prepare


_UNSTABLE = 1.5
"""Step times rate from which on stability is what keeps an explicit method's step."""


def diagnosis(
    field: Any, args: PyTree, ts: Array, solve: Integral, settings: SolveSettings
) -> str:
    """Sentences about a step from where a solve ended; none where it has no estimate.

    Args:
        field: Vector field.
        args: Passed to the field.
        ts: The times of the solve.
        solve: It, failed.
        settings: As `SolveSettings.for_times` returns them.
    """
    problem = as_constant((field, args, ts, solve, settings))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return ""
    length = float(problem[3].stats.last_step)
    if settings.controller is None or length == 0:
        return ""
    y1, ratios, rate = jax.tree.map(np.asarray, _look(problem))
    place, largest = _largest(ratios)
    if not np.isfinite(largest):
        place = _largest(jax.tree.map(lambda y: ~np.isfinite(y), y1))[0]
        return f" A step of the last length, {length:.3g}, gives a NaN in {place}."
    said = (
        f" In a step of the last length, {length:.3g}, the largest error is "
        f"{largest:.3g} times what rtol and atol allow, in {place}."
    )
    explicit = not isinstance(settings.solver, diffrax.AbstractImplicitSolver)
    if explicit and length * rate > _UNSTABLE:
        said += (
            f" The field's fastest rate there is about {rate:.3g} per unit of time, "
            f"{length * rate:.2g} per step, where an explicit method loses its "
            "stability: the problem is stiff."
        )
    return said


@eqx.filter_jit
def _look(problem: PyTree) -> tuple[PyTree, PyTree, Float[Array, ""]]:
    """State after a step, its error in units of what is allowed, fastest rate."""
    field, args, ts, solve, settings = problem
    y = jax.tree.map(lambda rows: rows[-1], solve.ys)
    length = jnp.where(ts[-1] >= ts[0], 1, -1) * solve.stats.last_step
    ends = jnp.stack([solve.t_reached, solve.t_reached + length])
    setup = prepare(field, args, ends, settings)
    t0, t1, solver = setup.ts[0], setup.ts[1], setup.solver
    state = solver.init(setup.term, t0, t1, y, setup.args)
    y1, error, *_ = solver.step(setup.term, t0, t1, y, setup.args, state, False)
    controller: Any = settings.controller

    def ratio(error, y, y1):
        scale = jnp.maximum(jnp.abs(y), jnp.abs(y1))
        return jnp.abs(error) / (controller.atol + controller.rtol * scale)

    seen = controlled((error, y, y1))
    return seen[2], jax.tree.map(ratio, *seen), _fastest_rate(setup, t0, y)


def _fastest_rate(setup: Any, t: Array, y: PyTree) -> Float[Array, ""]:
    """The spectral radius of df/dy, roughly, by the power method on its transpose."""
    f, pull_back = jax.vjp(lambda y: setup.term.vf(t, y, setup.args), y)
    norm = lambda v: jnp.sqrt(sum(jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(v)))

    def turn(_, carry):
        v, _ = carry
        size = norm(v)
        v = jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1).astype(x.dtype), v)
        (v,) = pull_back(v)
        return v, norm(v)

    # No component of the start is zero.
    start = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), f)
    start = jax.tree.map(lambda s, x: s.astype(x.dtype), start, f)
    return jax.lax.fori_loop(0, 30, turn, (start, norm(start)))[1]


def _largest(tree: PyTree) -> tuple[str, float]:
    """The largest entry of all leaves, and how one would write it."""
    worst, place = -np.inf, "y0"
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        index = np.unravel_index(np.argmax(leaf), leaf.shape)
        # A NaN is the largest of all to `argmax`.
        if leaf.size and not leaf[index] <= worst:
            worst = float(leaf[index])
            shown = ", ".join(map(str, index))
            place = "y0" + jax.tree_util.keystr(path) + (f"[{shown}]" if shown else "")
    return place, worst
