"""`odeint_event`: a solve that ends where an event happens.

It is solved twice. The first solve only finds the time tau of the event, and is not
differentiated. The second is `odeint`, up to tau, under any adjoint. With the event's
value g at tau and its derivative along the solution, g_dot = dg/dt + dg/dy f,

    t = tau - g / g_dot,    y = y(tau) + (t - tau) f

is one more step of Newton's method. Since tau and g_dot are constants, its derivative

    dt = -(dg/dy dy(tau) + dg/dargs dargs) / g_dot,

is that of the implicit function theorem.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._steps.lanes import varying_like
from .arguments import as_constant, check_state, check_times
from .closures import captured_arrays, VectorField
from .event_functions import (
    check_directions,
    check_events,
    Event,
    total_derivatives,
    values_of,
)
from .failures import counts_of
from .find_event import find_event, FoundEvent
from .jumps import either_side, jumps_for
from .odeint import odeint
from .own_gradient import call_compiled
from .probes import add_to_probe, in_force, without_probes
from .settings import SolveSettings
from .stats import SolveStats
from .time_gradient import differentiated_once


class EventSolution(eqx.Module):
    """The outcome of `odeint_event`.

    Attributes:
        t: The time of the event; the last of `ts` if none has happened.
        y: The state then.
        happened: Whether an event has happened.
        which: Index of the event that has; -1 if none has.
        ts: The times asked for.
        ys: The state at each, leading axis `len(ts)`. Rows of times after the event
            hold `y`.
        mask: Which of `ts` are not after the event.
        stats: Steps and field calls of everything: finding the event, and solving up
            to it.
        result: How the solve ended; `diffrax.RESULTS.successful` if all is well, an
            event or none.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> grow = lambda t, y, args: jnp.ones(())
        >>> above = lambda t, y, args: y - 5.0
        >>> hit = jaxode.odeint_event(grow, jnp.zeros(()), [0.0, 1.0], above)
        >>> isinstance(hit, jaxode.EventSolution), bool(hit.happened), float(hit.t)
        (True, False, 1.0)
    """

    t: Float[Array, ""]
    y: PyTree[Array]
    happened: Bool[Array, ""]
    which: Int[Array, ""]
    ts: Float[Array, " time"]
    ys: PyTree[Array]
    mask: Bool[Array, " time"]
    stats: SolveStats
    result: diffrax.RESULTS


def odeint_event(
    field: VectorField,
    y0: PyTree[ArrayLike],
    ts: Any,
    event: Any,
    args: PyTree = None,
    *,
    direction: Any = None,
    **settings: Any,
) -> EventSolution:
    """Solves dy/dt = field(t, y, args) until `event(t, y, args)` crosses zero.

    Differentiable once, under every adjoint: `t`, `y` and `ys` with respect to `y0`,
    `args`, `ts`, and the arrays inside `field` and `event`. A second derivative raises
    an error.

    The equation is solved twice, to find the event and then up to it, and a few steps
    are taken to locate it: forwards two to three times the work of `odeint`, more where
    the steps are few. The way back costs the same.

    Args:
        field: Vector field, as in `odeint`.
        y0: State at `ts[0]`.
        ts: At least two times, as in `odeint`. The solve ends at the last one, if no
            event happens before.
        event: `event(t, y, args)`, returning one floating number; or a list of such
            functions, of which the first one to cross ends the solve (the one named
            first, if several cross together).
        args: Any pytree, handed to the field and to the events.
        direction: Which crossings count: 1 for upwards, -1 for downwards, in the course
            of the solve; `None` for both; or a list with one of these for each event.
        **settings: The keyword arguments of `odeint`, but for `norm`, `cost` and
            `dense`: solve once more, over times that end with `hit.t`.

    An event happens where its value changes sign. One that is zero at `ts[0]` has the
    sign that it moves to; one that touches zero and turns back does not happen; one
    that is zero at `ts[-1]` does. A sign is looked at eight times a step, so two
    crossings of one event that lie closer together may be missed: choose a smaller
    tolerance, or a controller with `dtmax`. In jitted code with `throw=False`, an
    event that becomes NaN shows in `result`.

    Returns:
        An `EventSolution`.

    Raises:
        TypeError: for an event that is not callable or returns no floating number, and
            as in `odeint`.
        ValueError: for an event that returns several numbers, a wrong `direction`, an
            unknown setting, and as in `odeint`.
        SolveError: if `throw`, where the solve failed or an event was NaN.

    Reference:
        Chen, Amos & Nickel 2021, "Learning Neural Event Functions for Ordinary
        Differential Equations", arXiv:2011.03902, for the gradient.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> fall = lambda t, y, g: jnp.stack([y[1], -g])
        >>> floor = lambda t, y, g: y[0]
        >>> y0 = jnp.array([2.0, 0.0])  # 2 m high, at rest
        >>> hit = jaxode.odeint_event(fall, y0, [0.0, 9.0], floor, 9.81)
        >>> print(f"{hit.t:.3f}")  # sqrt(2 h / g)
        0.639
    """
    options = SolveSettings().replace(**settings)
    if options.norm is not None:
        raise ValueError(
            "norm has the devices of a mesh step together, and an event ends the solve "
            "of each at a time of its own; leave norm out of odeint_event."
        )
    y0 = check_state(y0)
    ts = check_times(ts, y0, options.throw)
    # A time that all parts of a mesh share would get the sum of their derivatives.
    y0, ts = varying_like((y0, ts), field, y0, ts, args)

    # Where it ends, as a constant.
    given = in_force()
    options = options.replace(**given.replacements)
    with without_probes():
        events = check_events(event, ts[0], y0, args)
        directions = check_directions(direction, len(events))
        found = _found(field, events, y0, args, ts, options, directions)
    first, tau = found.solve, found.t

    # The solve up to there, which ends with a row of its own.
    fixed_ts = as_constant(ts)
    falls = fixed_ts[-1] < fixed_ts[0]
    is_after = jnp.where(falls, fixed_ts < tau, fixed_ts > tau)
    times = jnp.append(jnp.where(is_after, tau, ts), tau)
    solution = odeint(field, y0, times, args, **settings)
    rows = solution.ys
    if given.forward_probe is not None:
        rows = add_to_probe(rows, given.forward_probe, counts_of(first))

    # The event, differentiable.
    at_tau = jax.tree.map(lambda row: row[-1], rows)
    with without_probes():
        jumps = jumps_for(as_constant(options.jumps), fixed_ts, throw=False)
        _, arriving = either_side(field, jumps, fixed_ts)
        t, y = _event_at(found, at_tau, arriving, args, events)
    t = jnp.where(found.happened, t, ts[-1])
    y = jax.tree.map(lambda y, rows: jnp.where(found.happened, y, rows[-2]), y, rows)
    ys = jax.tree.map(
        lambda y, rows: jnp.where(_leading(is_after, rows[:-1]), y, rows[:-1]), y, rows
    )
    results = diffrax.RESULTS
    is_fine = first.result == results.successful
    return EventSolution(
        t=t,
        y=y,
        happened=found.happened,
        which=jnp.where(found.happened, found.which, -1),
        ts=ts,
        ys=ys,
        mask=~is_after,
        stats=_sum(first.stats, solution.stats),
        result=results.where(is_fine, solution.result, first.result),
    )


def _found(
    field: Any,
    events: tuple[Event, ...],
    y0: PyTree[Array],
    args: PyTree,
    ts: Float[Array, " time"],
    settings: SolveSettings,
    directions: tuple[int, ...],
) -> FoundEvent:
    """`find_event` with nothing that is differentiated, checked if `throw` asks."""
    closed, _ = captured_arrays(field, ts[0], y0, args)
    constants = as_constant((closed, events, y0, args, ts, settings))
    found = call_compiled(find_event, *constants, directions)
    return found.checked(settings.max_steps) if settings.throw else found


def _leading(mask: Array, y: Array) -> Array:
    return jnp.reshape(mask, mask.shape + (1,) * (y.ndim - mask.ndim))


@jax.custom_jvp
def _corrected(tau: Array, g: Array, slope: Array) -> Array:
    """`tau - g / slope`, by which the root of g moves; of `g` alone a function."""
    return tau - g / slope


@_corrected.defjvp
def _corrected_jvp(primals, tangents):
    tau, g, slope = primals
    _, g_dot, _ = tangents
    # To first order only: a second derivative would miss that the slope changes too.
    once = differentiated_once(g, TWICE_MESSAGE)
    return _corrected(tau, g, slope), -g_dot / slope * once


TWICE_MESSAGE = (
    "odeint_event is differentiated twice, which it does not support: the time of an "
    "event is differentiated by the implicit function theorem, to first order."
)


def _event_at(
    found: FoundEvent,
    y: PyTree[Array],
    field: Any,
    args: PyTree,
    events: tuple[Event, ...],
) -> tuple[Array, PyTree[Array]]:
    """Time and state of the event that was found, given the state at that time."""
    tau, y = varying_like((found.t, y), found.t, y, events, args)
    g = values_of(events, args, tau, y)[found.which]
    fixed, args = as_constant((y, args))
    f = as_constant(field(tau, fixed, args))
    values = lambda t, y: values_of(events, args, t, y)
    _, slopes = as_constant(total_derivatives(values, tau, fixed, f))
    # Without a slope the time has no derivative; nor has it where there is no event.
    slope = slopes[found.which]
    is_useful = found.happened & (slope != 0)
    t = _corrected(tau, g, jnp.where(is_useful, slope, jnp.inf))
    move = lambda y, f: y + (t - tau).astype(y.dtype) * f
    return t, jax.tree.map(move, y, f)


def _sum(first: SolveStats, second: SolveStats) -> SolveStats:
    both = lambda name: getattr(first, name) + getattr(second, name)
    # One call more: the derivative along the solution, at the event.
    nfe = None if first.nfe is None or second.nfe is None else both("nfe") + 1
    return SolveStats(
        nfe=nfe,
        num_steps=both("num_steps"),
        num_accepted_steps=both("num_accepted_steps"),
        num_rejected_steps=both("num_rejected_steps"),
        last_step=second.last_step,
        success=first.success & second.success,
    )
