"""The time of a crossing, within the step in which it was seen.

An interpolant is less accurate than the step it belongs to. So the crossing is located
by taking the step again, as far as a candidate, until it fits.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .._steps.lanes import any_lane, choose
from .event_functions import total_derivatives
from .loop_state import State
from .setup import made_jump_of, Setup


_MOST_CANDIDATES = 60


class _Search(eqx.Module):
    """A search for the first crossing.

    Attributes:
        low: A time before it.
        high: A time after it.
        t: The candidate.
        which: The event that decided on it.
        is_done: Whether it fits.
        tried: Candidates so far, each of which took a step.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    t: Float[Array, ""]
    which: Int[Array, ""]
    is_done: Bool[Array, ""]
    tried: Int[Array, ""]


def locate(setup: Setup, state: State) -> tuple[Array, Array, Array]:
    """The time of the crossing that was found, in the step that starts at `state`.

    Newton's method for the event that is furthest on its other side, within bounds that
    are halved where it leaves them: it ends at the earliest crossing.

    Returns:
        The time; which event it is, the first in order of those that cross together;
        and how many times the step was taken.
    """
    watched: Any = state.watched
    eps = jnp.finfo(watched.low.dtype).eps
    # The bounds are an interpolant's: the step itself may cross a little outside.
    slack = 0.5 * (watched.high - watched.low)
    search = _Search(
        low=jnp.maximum(watched.low - slack, state.t0),
        high=jnp.minimum(watched.high + slack, state.t1),
        t=watched.low + slack,
        which=jnp.zeros_like(state.num_steps),
        is_done=~watched.found,
        tried=jnp.zeros_like(state.num_steps),
    )
    # Newton's error after a correction is of the order of its square.
    enough = jnp.sqrt(eps) * (watched.high - watched.low)
    together = 64 * eps * jnp.maximum(jnp.abs(state.t0), jnp.abs(state.t1))

    def improve(search: _Search) -> _Search:
        t = search.t
        v, slopes = _at(setup, state, t)
        # Positive on the other side.
        beyond = jnp.where(watched.crossed, -watched.sides * v, -jnp.inf)
        furthest = jnp.argmax(beyond)
        low = jnp.where(beyond[furthest] < 0, t, search.low)
        high = jnp.where(beyond[furthest] < 0, search.high, t)
        corrections = -v / jnp.where(slopes == 0, jnp.nan, slopes)
        correction = jnp.where(v[furthest] == 0, 0, corrections[furthest])
        inside = (t + correction >= low) & (t + correction <= high)
        fits = inside & (jnp.abs(correction) <= enough)
        fits |= high - low <= 4 * eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        halved = low + 0.5 * (high - low)
        ties = watched.crossed & (jnp.abs(corrections - correction) <= together)
        ties |= jnp.arange(len(v)) == furthest
        return _Search(
            low=low,
            high=high,
            t=jnp.where(inside, t + correction, halved),
            which=jnp.argmax(ties).astype(jnp.int32),
            is_done=fits,
            tried=search.tried + 1,
        )

    going = lambda search: ~search.is_done & (search.tried < _MOST_CANDIDATES)
    search = lax.while_loop(
        lambda search: any_lane(going(search)),
        lambda search: choose(going(search), improve(search), search),
        search,
    )
    return search.t, search.which, search.tried


def _at(setup: Setup, state: State, t: Array) -> tuple[Array, Array]:
    """Values of the events and their derivatives, after a step as far as `t`."""
    term, args = setup.term, setup.args
    jump: Any = made_jump_of(state.made_jump)
    watched: Any = state.watched
    y, *_ = setup.solver.step(term, state.t0, t, state.y, args, state.solver, jump)
    return total_derivatives(watched.values, t, y, term.vf(t, y, args))
