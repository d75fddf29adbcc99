"""Temporary bytes of a compiled gradient, against the number of steps."""

from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

import jaxode


STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
EVERY_STEP = "every step stored"
"""Backpropagation as one thinks of it: `checkpoint` with room for every step, so that
none is recomputed. Diffrax's `direct` recomputes."""


@dataclass(frozen=True)
class Memory:
    """One compiled gradient of an ODE block in fixed Euler steps.

    Attributes:
        adjoint: Its name.
        steps: Number of steps.
        temporary_bytes: What the compiled program allocates beside its inputs and
            outputs, by the compiler's account.
        state_bytes: Size of the state that is integrated.
    """

    adjoint: str
    steps: int
    temporary_bytes: int
    state_bytes: int


def _gradient(field, y0, adjoint: Any, steps: int):
    def loss_fn(field):
        solution = jaxode.odeint(
            field,
            y0,
            jnp.array([0.0, 1.0]),
            solver=diffrax.Euler(),
            rtol=None,
            dt0=1 / steps,
            max_steps=steps,
            adjoint=adjoint,
            throw=False,
        )
        return jnp.sum(jnp.square(solution.ys[-1]))

    return jax.grad(loss_fn)(field)


def measure(name: str, steps: int) -> Memory | None:
    """Compiles, and does not run, the gradient of the post's field.

    Args:
        name: An adjoint, or `EVERY_STEP`.
        steps: Number of steps.

    Returns:
        `None` where the compiler gives no account of its memory.
    """
    field = jaxode.nn.ConvField(6, key=jax.random.key(0))
    y0 = jax.random.normal(jax.random.key(1), (16, 6, 26, 26))
    adjoint: Any = name
    if name == EVERY_STEP:
        adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=steps)
    compiled = (
        jax.jit(_gradient, static_argnums=(2, 3))
        .lower(field, y0, adjoint, steps)
        .compile()
    )
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return Memory(name, steps, analysis.temp_size_in_bytes, y0.nbytes)


def temporary_bytes() -> list[Memory]:
    """The memory of every adjoint at each length."""
    names = ("discrete", "backsolve", "checkpoint", "direct", EVERY_STEP)
    found = [measure(name, steps) for name in names for steps in STEPS]
    return [memory for memory in found if memory is not None]
