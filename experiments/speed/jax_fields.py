"""The general problems for JAX: jaxode, Diffrax and `jax.experimental.ode`.

Each as a user calls it, with its own defaults: jaxode raises where a solve fails.
"""

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint as jax_odeint

import jaxode
from console.precision import enable_x64
from speed.problems import Problem
from speed.serve import mean_seconds


class Operations:
    """What `vector_fields` needs of a library."""

    tanh, sin, cos, sigmoid = jnp.tanh, jnp.sin, jnp.cos, jax.nn.sigmoid
    roll, stack, concatenate = jnp.roll, jnp.stack, jnp.concatenate
    broadcast_to = jnp.broadcast_to

    @staticmethod
    def gradient(f: Callable[[Any], Any], x: Any) -> Any:
        """Of a function of each row."""
        return jax.grad(lambda x: f(x).sum())(x)

    @staticmethod
    def with_divergence(f: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
        """A function of each row, and its divergence."""
        value, pull_back = jax.vjp(f, x)
        units = jnp.eye(x.shape[1], dtype=x.dtype)
        rows = [
            pull_back(jnp.broadcast_to(unit, x.shape))[0] for unit in units[:, None]
        ]
        return value, sum(row[:, i] for i, row in enumerate(rows))


Solve = Callable[[Callable[..., Any], Any, Any, Any, Problem], Any]


def by_jaxode(
    field: Any, y0: Any, ts: Any, p: Any, problem: Problem, **settings: Any
) -> Any:
    """All defaults, the adjoint among them unless it is in the settings."""
    settings |= dict(rtol=problem.rtol, atol=problem.atol)
    return jaxode.odeint(field, y0, ts, p, **settings).ys


def by_diffrax(field: Any, y0: Any, ts: Any, p: Any, problem: Problem) -> Any:
    """Its default adjoint, and no check of the result."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=y0,
        args=p,
        saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(problem.rtol, problem.atol),
        throw=False,
    ).ys


def by_jax(field: Any, y0: Any, ts: Any, p: Any, problem: Problem) -> Any:
    """Its only adjoint solves backwards."""
    function = lambda y, t, p: field(t, y, p)
    return jax_odeint(function, y0, ts, p, rtol=problem.rtol, atol=problem.atol)


CONTESTANTS: dict[str, Solve] = {
    "jaxode": by_jaxode,
    "Diffrax": by_diffrax,
    "jax.experimental.ode": by_jax,
}


def contestants(adjoints: Iterable[str]) -> dict[str, Solve]:
    """Everyone, and this library under further adjoints."""
    more = {f"jaxode {name}": partial(by_jaxode, adjoint=name) for name in adjoints}
    return CONTESTANTS | more


@dataclass(frozen=True)
class Prepared:
    """A contestant that has taken its first gradient of a problem.

    Attributes:
        first_call_s: Seconds from the gradient's definition to its first value.
        calls: Field calls of the forward solve.
        temporary_bytes: Of the compiled gradient, where that is known.
        loss: The value.
        gradient: By the arrays of the state, then those of the parameters.
        failure: Why there is none; what stands above is then `None` or empty.
        seconds: Mean seconds of a gradient over so many, one after the other.
    """

    first_call_s: float | None
    calls: int | None
    temporary_bytes: int | None
    loss: float | None
    gradient: list[np.ndarray]
    failure: str | None
    seconds: Callable[[int], float]


def prepare(solve: Solve, problem: Problem) -> Prepared:
    """Measures the first call as in a new process, and whatever is measured once."""
    y0, ts, p = _on_device(problem, np.float32)
    value_and_grad = jax.jit(_value_and_grad(solve, problem, ts))
    run = lambda: jax.block_until_ready(value_and_grad(y0, p))
    seconds = lambda repeats: mean_seconds(run, repeats)
    _forget_compiled_programs()
    start = time.perf_counter()
    try:
        value, bars = run()
    except (jaxode.SolveError, RuntimeError) as error:
        # The error of a callback has that of the solve in its last lines.
        reason = str(error).strip().rpartition("SolveError: ")[2]
        failure = reason.splitlines()[0]
        return Prepared(None, None, None, None, [], failure, seconds)
    first_call_s = time.perf_counter() - start
    memory = value_and_grad.lower(y0, p).compile().memory_analysis()
    assert memory is not None
    return Prepared(
        first_call_s=first_call_s,
        calls=count_calls(solve, problem),
        temporary_bytes=memory.temp_size_in_bytes,
        loss=float(value),
        gradient=[np.asarray(bar) for bar in jax.tree.leaves(bars)],
        failure=None,
        seconds=seconds,
    )


def reference_gradient(problem: Problem) -> list[np.ndarray]:
    """In double precision, to 1e-9, through the steps: by no adjoint that is timed."""

    def solve(field, y0, ts, p, problem):
        settings: dict[str, Any] = dict(rtol=1e-9, atol=1e-9, max_steps=2**16)
        return jaxode.odeint(field, y0, ts, p, adjoint="checkpoint", **settings).ys

    with enable_x64(True):
        y0, ts, p = _on_device(problem, np.float64)
        _, bars = jax.jit(_value_and_grad(solve, problem, ts))(y0, p)
        return [np.asarray(bar) for bar in jax.tree.leaves(bars)]


def count_calls(solve: Solve, problem: Problem) -> int:
    """Field calls of the forward solve, counted where they are made."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1

    def field(t, y, p):
        jax.debug.callback(count)
        return problem.field(Operations, t, y, p)

    y0, ts, p = _on_device(problem, np.float32)
    jax.block_until_ready(
        jax.jit(lambda y0, p: solve(field, y0, ts, p, problem))(y0, p)
    )
    jax.effects_barrier()
    return calls


def _value_and_grad(solve: Solve, problem: Problem, ts: Any) -> Callable[..., Any]:
    def field(t, y, p):
        return problem.field(Operations, t, y, p)

    def loss(y0, p):
        leaves = jax.tree.leaves(solve(field, y0, ts, p, problem))
        return sum((leaf**2).mean() for leaf in leaves)

    return jax.value_and_grad(loss, argnums=(0, 1))


def _on_device(problem: Problem, dtype: Any) -> Any:
    given = (problem.y0, problem.ts, problem.parameters)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), given)


def _forget_compiled_programs() -> None:
    """Contestants share functions of JAX's: the first would trace them for all."""
    jax.clear_caches()
    gc.collect()
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
