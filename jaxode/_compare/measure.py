"""A loss turned into programs that report on themselves, and their measurement."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._solve.probes import overriding
from .._solve.stats import SolveCounts


class Gradient(NamedTuple):
    """A loss, its gradient, and what it took to compute them.

    Attributes:
        loss: The loss.
        grads: Its gradient, shaped like the floating arrays of the parameters.
        forward: Counts of the forward solves.
        backward: Counts of the backward solves, zeros where the adjoint tells nothing.
    """

    loss: Float[Array, ""]
    grads: PyTree
    forward: SolveCounts
    backward: SolveCounts


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call over several rounds."""

    median: float
    fastest: float
    slowest: float


def gradient_of(
    loss_fn: Callable, replacements: dict[str, Any]
) -> Callable[..., Gradient]:
    """`loss_fn` under other settings of its solves, as a function that counts.

    Args:
        loss_fn: `loss_fn(params, *data)`, a scalar or a pair of one and anything else.
        replacements: Fields of `SolveSettings` to replace in every solve inside.
    """
    # Diffrax's own backsolve takes no probe: it does not tell what it did.
    has_probe = not isinstance(replacements.get("adjoint"), diffrax.BacksolveAdjoint)

    def gradient(params, *data):
        def loss(differentiated):
            params, forward, backward = differentiated
            backward = backward if has_probe else None
            probes = dict(backward_probe=backward, forward_probe=forward)
            with overriding(replacements=replacements, **probes):
                return _scalar(loss_fn(params, *data))

        value, (grads, forward, backward) = eqx.filter_value_and_grad(loss)(
            (params, SolveCounts.zeros(), SolveCounts.zeros())
        )
        return Gradient(value, grads, forward, backward)

    return gradient


def forward_counts_of(
    loss_fn: Callable, replacements: dict[str, Any]
) -> Callable[..., SolveCounts]:
    """The counts of `gradient_of`, at the price of little more than the loss."""

    def counts(params, *data):
        # The parameters are no part of it, so that the last solve, and often the only
        # one, has nothing to be differentiated by.
        loss = lambda probe: loss_with_probe(
            loss_fn, replacements, probe, params, *data
        )
        return jax.grad(loss)(SolveCounts.zeros())

    return counts


def loss_with_probe(
    loss_fn: Callable, replacements: dict[str, Any], probe: SolveCounts, *arguments: Any
) -> Float[Array, ""]:
    """The loss, whose derivative by `probe` is the counts of its forward solves."""
    with overriding(replacements=replacements, forward_probe=probe):
        return _scalar(loss_fn(*arguments))


class Program:
    """A function compiled for its arguments, and what that took.

    Attributes:
        compile_seconds: Seconds to trace and compile.
        temporary_bytes: What it allocates beside arguments and results, or `None`.
    """

    def __init__(self, function: Callable, *arguments: Any):
        self._arrays, static = eqx.partition(arguments, eqx.is_array)
        call = lambda arrays: function(*eqx.combine(arrays, static))
        start = time.perf_counter()
        self._compiled = jax.jit(call).lower(self._arrays).compile()
        self.compile_seconds = time.perf_counter() - start
        analysis = self._compiled.memory_analysis()
        self.temporary_bytes = analysis and analysis.temp_size_in_bytes

    def __call__(self) -> Any:
        """Runs it on the arguments and waits for the end."""
        return jax.block_until_ready(self._compiled(self._arrays))

    def on(self, *arguments: Any) -> Any:
        """Runs it on other arrays of the same shapes."""
        arrays, _ = eqx.partition(arguments, eqx.is_array)
        return jax.block_until_ready(self._compiled(arrays))


def time_in_turns(
    programs: Sequence[Program], rounds: int, at_least: float = 0.01
) -> list[Timing]:
    """Times programs that have run before, in rounds in which each has its turn.

    The speed of a machine drifts; what is compared is measured side by side.

    Args:
        programs: What to time.
        rounds: Turns of each.
        at_least: Seconds that a turn lasts; a short program is run several times.
    """
    repeats = [max(1, int(at_least / max(_seconds(p, 1), 1e-7))) for p in programs]
    turns = [
        [_seconds(p, n) for p, n in zip(programs, repeats, strict=True)]
        for _ in range(rounds)
    ]
    return [
        Timing(statistics.median(own), min(own), max(own))
        for own in zip(*turns, strict=True)
    ]


def peak_bytes() -> int | None:
    """High-water mark of the first device's memory, where it reports one."""
    found = jax.local_devices()[0].memory_stats()
    return None if found is None else found.get("peak_bytes_in_use")


def _seconds(program: Program, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        program()
    return (time.perf_counter() - start) / repeats


def _scalar(out: Any) -> Any:
    value = out[0] if isinstance(out, tuple) else out
    if jnp.shape(value) != () or not jnp.issubdtype(
        jnp.result_type(value), jnp.floating
    ):
        raise TypeError(
            "loss_fn(params, *data) must return a floating scalar, or a pair of one "
            f"and anything else; got {eqx.tree_pformat(out, width=1000)}."
        )
    return value
