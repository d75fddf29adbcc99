"""A step of a solve, with the calls that an implicit solver makes counted."""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .counting import CallCounter, marked
from .diffrax_calls import forward_calls
from .loop_state import State
from .setup import made_jump_of, Setup


def with_counter(setup: Setup, state: State) -> tuple[Setup, State]:
    """Both, ready to count calls where no formula knows them and they can be counted.

    Args:
        setup: From `prepare`.
        state: At the first time.
    """
    none = jnp.zeros((), jnp.int32)
    known = forward_calls(setup.solver, none, none, none, none) is not None
    if known or setup.differentiable:
        return setup, state

    def step(solver, term, *inputs):
        return solver.step(diffrax.ODETerm(marked(term.vector_field)), *inputs)

    counter = CallCounter(step, *_inputs(setup, state))
    if not counter.is_exact:
        return setup, state
    calls = state.num_steps * 0
    state = eqx.tree_at(lambda s: s.calls, state, calls, is_leaf=lambda x: x is None)
    return setup._replace(counter=counter), state


def take_step(setup: Setup, state: State) -> tuple[Any, Int[Array, ""] | None]:
    """What the solver makes of a step, and the calls that it made if they are counted.

    Args:
        setup: From `with_counter`.
        state: Where the step starts.
    """
    solver, *inputs = _inputs(setup, state)
    if setup.counter is None:
        return solver.step(*inputs), None
    return setup.counter(solver, *inputs)


def _inputs(setup: Setup, state: State) -> tuple[Any, ...]:
    jumped = made_jump_of(state.made_jump)
    at = state.t0, state.t1, state.y, setup.args, state.solver, jumped
    return setup.solver, setup.term, *at
