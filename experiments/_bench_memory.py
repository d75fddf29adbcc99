"""Temporary bytes of a compiled gradient, against the number of steps."""

from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

import jaxode


STEPS = (1, 2, 4, 8, 16, 32, 64, 128)


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


def temporary_bytes() -> list[Memory]:
    """Compiles, and does not run, the gradient of the post's field at each length."""
    field = jaxode.ConvField(6, key=jax.random.key(0))
    y0 = jax.random.normal(jax.random.key(1), (16, 6, 26, 26))
    found = []
    for adjoint in ("backsolve", "checkpoint", "direct"):
        for steps in STEPS:
            compiled = (
                jax.jit(_gradient, static_argnums=(2, 3))
                .lower(field, y0, adjoint, steps)
                .compile()
            )
            analysis = compiled.memory_analysis()
            if analysis is not None:
                size = analysis.temp_size_in_bytes
                found.append(Memory(adjoint, steps, size, y0.nbytes))
    return found
