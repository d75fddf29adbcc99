"""Events that are watched for, step by step.

Each event has a side, the sign of its value. It changes side where it crosses zero; a
value of exactly zero is on the side where it came from, so that touching zero is no
crossing. A step is looked at in several places (`LOOKS`), so that a crossing and one
back within the same step are seen, unless they lie closer together than these.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .event_functions import total_derivatives, Values
from .read_out import interpolant, Step
from .setup import Setup


LOOKS = 8
"""Places in a step at which events are evaluated, its end among them."""


class Watched(eqx.Module):
    """What is known of the events of a solve so far.

    Times are the loop's, which increase.

    Attributes:
        values: The values of all events at a time and a state.
        directions: For each event 1, -1, or 0 for both.
        sides: Side of each event, 1 or -1; 0 as long as it has been zero. Once one has
            crossed, the side before that.
        found: Whether one has crossed.
        crossed: Which have, within the same part of the step.
        low: Start of that part.
        high: Its end.
        broken: The first event that was NaN; -1 if there is none.
        t_broken: When it was.
    """

    values: Values
    directions: tuple[int, ...] = eqx.field(static=True)
    sides: Float[Array, " event"]
    found: Bool[Array, ""]
    crossed: Bool[Array, " event"]
    low: Float[Array, ""]
    high: Float[Array, ""]
    broken: Int[Array, ""]
    t_broken: Float[Array, ""]

    @classmethod
    def start(
        cls, setup: Setup, values: Values, directions: tuple[int, ...], y0: PyTree
    ) -> "Watched":
        """At the first time, where an event that is zero has the side it moves to."""
        t0 = setup.ts[0]
        f0 = setup.term.vf(t0, y0, setup.args)
        v, slopes = total_derivatives(values, t0, y0, f0)
        sides = jnp.sign(jnp.where(_is_zero(v, slopes, setup), slopes, v))
        nothing = jnp.zeros(v.shape, bool)
        return cls(
            values=values,
            directions=directions,
            sides=sides,
            found=jnp.array(False),
            crossed=nothing,
            low=t0,
            high=t0,
            broken=_first(jnp.isnan(v)),
            t_broken=t0,
        )

    @property
    def stops(self) -> Bool[Array, ""]:
        """Whether the solve ends here."""
        return self.found | (self.broken >= 0)

    def _asks_for(self, direction: Float[Array, " event"]) -> Bool[Array, " event"]:
        wanted = jnp.asarray(self.directions, direction.dtype)
        return (wanted == 0) | (wanted == direction)

    def at_end(self, setup: Setup, y: PyTree[Array]) -> Bool[Array, " event"]:
        """Which events cross at the last time, where the state is `y`."""
        t_end = setup.ts[-1]
        f = setup.term.vf(t_end, y, setup.args)
        v, slopes = total_derivatives(self.values, t_end, y, f)
        crosses = _is_zero(v, slopes, setup) & (self.sides * slopes < 0)
        return crosses & self._asks_for(jnp.sign(slopes))

    def after(self, setup: Setup, step: Step, keep: Bool[Array, ""]) -> "Watched":
        """After a step, if it is kept."""
        times, v = _looks(setup, step, self.values)
        # On which side each event was before each look, and whether it crossed there.
        sides, crossings, side = [], [], self.sides
        for i in range(LOOKS):
            sides.append(side)
            new = jnp.sign(v[i])
            crossings.append((side * new < 0) & self._asks_for(new))
            side = jnp.where((new == 0) | jnp.isnan(new), side, new)

        # The first look at which one had crossed, if none had been NaN by then.
        crossed, broken = jnp.stack(crossings), jnp.isnan(v)
        cross_at = _first(jnp.any(crossed, 1), LOOKS)
        broken_at = _first(jnp.any(broken, 1), LOOKS)
        is_broken = keep & (broken_at < LOOKS) & (broken_at <= cross_at)
        found = keep & (cross_at < LOOKS) & ~is_broken
        look = jnp.minimum(cross_at, LOOKS - 1)
        worst = jnp.minimum(broken_at, LOOKS - 1)
        starts = jnp.concatenate([step.t0[None], times[:-1]])
        return dataclasses.replace(
            self,
            sides=jnp.where(
                found, jnp.stack(sides)[look], jnp.where(keep, side, self.sides)
            ),
            found=self.found | found,
            crossed=jnp.where(found, crossed[look], self.crossed),
            low=jnp.where(found, starts[look], self.low),
            high=jnp.where(found, times[look], self.high),
            broken=jnp.where(is_broken, _first(broken[worst]), self.broken),
            t_broken=jnp.where(is_broken, times[worst], self.t_broken),
        )


def _is_zero(v: Array, slopes: Array, setup: Setup) -> Bool[Array, " event"]:
    """Zero, or off it by less time than floating numbers tell apart."""
    largest = jnp.maximum(jnp.abs(setup.ts[0]), jnp.abs(setup.ts[-1]))
    return jnp.abs(v) <= 64 * jnp.finfo(v.dtype).eps * largest * jnp.abs(slopes)


def _first(condition: Bool[Array, " n"], none: int = -1) -> Int[Array, ""]:
    """Index of the first that holds, `none` if no one does."""
    index = jnp.argmax(condition).astype(jnp.int32)
    return jnp.where(jnp.any(condition), index, none)


def _looks(setup: Setup, step: Step, values: Values) -> tuple[Array, Array]:
    """Times within a step, and the values of the events there."""
    shares = jnp.arange(1, LOOKS, dtype=step.t0.dtype) / LOOKS
    within = step.t0 + shares * (step.t1 - step.t0)
    at = lambda t: interpolant(setup.solver, step.t0, step.t1, step.dense_info, t)
    between = jax.vmap(lambda t: values(t, at(t)))(within)
    end = values(step.t1, step.y1)
    return jnp.append(within, step.t1), jnp.concatenate([between, end[None]])
