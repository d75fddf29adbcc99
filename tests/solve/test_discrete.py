"""The discrete adjoint: what it keeps, what it repeats, and that neither shows."""

import re
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    Counting,
    Counts,
    needs_shard_map,
    quick_jit,
    relative_error,
    some_slow,
    weighted_sum,
)
from jax.sharding import Mesh, PartitionSpec
from problems import PROBLEMS

import jaxode


TIGHT: dict[str, Any] = dict(rtol=1e-9, atol=1e-9, throw=False)


def gradients(problem, adjoint, **settings):
    """State and gradients by field, y0, times and args, compiled."""

    def loss(arguments):
        field, y0, ts, args = arguments
        solution = jaxode.odeint(field, y0, ts, args, adjoint=adjoint, **settings)
        return weighted_sum(solution.ys), solution

    (_, solution), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(problem)
    return solution, grads


# Past the bound


@pytest.mark.parametrize("rows", some_slow([2, 6, 16], 6))
@pytest.mark.parametrize("reverse", some_slow([False, True], True))
def test_gradient_does_not_depend_on_the_rows(x64, rows, reverse):
    problem = PROBLEMS["forced"].arrays(jnp.float64, reverse)
    whole, expected = gradients(problem, "discrete", **TIGHT)
    sparse, actual = gradients(problem, jaxode.Discrete(rows=rows), **TIGHT)
    assert whole.stats.num_accepted_steps > 16
    assert sparse.stats.num_steps == whole.stats.num_steps
    # Observed at most 3e-15: the same steps, in another program.
    assert relative_error(actual, expected) < 1e-14


# What a solver keeps from step to step: a first stage and a flag, nothing, arrays.
KEEPERS: dict[str, dict[str, Any]] = {
    "own_stage_loop": dict(solver=diffrax.Dopri5(), unroll=False),
    "heun": dict(solver=diffrax.Heun()),
    "kvaerno3": dict(solver=diffrax.Kvaerno3()),
    "leapfrog": dict(solver=diffrax.LeapfrogMidpoint(), rtol=None, dt0=0.02),
}


@pytest.mark.parametrize("keeper", some_slow(KEEPERS, "own_stage_loop"))
def test_what_a_solver_keeps_is_found_again_past_the_bound(x64, keeper):
    problem = PROBLEMS["forced"].arrays(jnp.float64, False)
    settings = dict(rtol=1e-5, atol=1e-6) | KEEPERS[keeper]
    whole, expected = gradients(problem, "discrete", **settings)
    _, actual = gradients(problem, jaxode.Discrete(rows=2), **settings)
    assert whole.stats.num_accepted_steps > 4
    # Observed 0: the same steps in the same arithmetic.
    assert relative_error(actual, expected) < 1e-15


@pytest.mark.parametrize(
    ("steps", "rows", "repeated"),
    [
        # As many steps as rows: nothing is repeated.
        (16, 16, 0),
        # Stride 8 in 1,000 steps, 125 stretches of which all but the first step of each
        # is computed again.
        (1000, 128, 1000 - 125),
        # Rows squared is 256: beyond it a stretch of 512 is gone through many times.
        (1000, 16, None),
        (100_000, 512, 100_000 - 391),
    ],
)
def test_long_solves_repeat_each_step_once(x64, steps, rows, repeated):
    decay = lambda t, y, k: -k * y
    adjoint = jaxode.Discrete(rows=rows)

    def loss(k, y0):
        solution = jaxode.odeint(
            decay,
            y0,
            [0.0, 1.0],
            k,
            solver=diffrax.Euler(),
            adjoint=adjoint,
            rtol=None,
            dt0=1 / steps,
            max_steps=None,
            throw=False,
        )
        return solution.ys[-1]

    gradient = jax.jit(jaxode.value_and_grad_with_stats(loss))
    value, by_k, counts = gradient(jnp.array(0.7), jnp.array(1.5))
    # Euler's n steps are (1 - k/n)^n, whose derivative is -(1 - k/n)^(n - 1).
    truth = 1.5 * (1 - 0.7 / steps) ** steps
    # Observed 7e-13 in 100,000 steps, 1e-14 in 1,000.
    assert abs(value / truth - 1) < 5e-12
    assert abs(by_k / (-truth / (1 - 0.7 / steps)) - 1) < 5e-12
    assert counts.num_accepted_steps == steps
    assert counts.nfe == steps
    if repeated is None:
        assert steps - 2 < counts.num_repeated_steps < 20 * steps
    else:
        assert counts.num_repeated_steps == repeated


def temporary_bytes(adjoint, max_steps, width=1000):
    decay = lambda t, y, k: -k * y

    def loss(k, y0):
        settings: dict[str, Any] = dict(max_steps=max_steps, throw=False, rtol=1e-4)
        ts = [0.0, 1.0]
        ys = jaxode.odeint(decay, y0, ts, k, adjoint=adjoint, **settings).ys
        return jnp.sum(ys[-1])

    arguments = jnp.float32(1.0), jnp.ones(width, jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_memory_is_bounded_whatever_the_steps():
    few, many = (temporary_bytes("discrete", n) for n in (1_000, 100_000))
    # A number of four bytes for each step is all that grows.
    assert many - few <= 4 * 99_000 + 4096
    # The rows, and on the way back as many for states that are computed again.
    assert few < 2.2 * 2**22


def test_memory_is_that_of_the_rows():
    few, more = (temporary_bytes(jaxode.Discrete(rows=n), 1_000) for n in (16, 64))
    row = 2 * 4 * 1000
    # Two sets of rows; observed 1.00 of it.
    assert abs((more - few) / (2 * 48 * row) - 1) < 0.1


def test_bytes_bound_the_rows():
    assert jaxode.Discrete().num_rows(1024, 10_000) == 4096
    assert jaxode.Discrete(bytes=2**20).num_rows(1024, 10_000) == 1024
    assert jaxode.Discrete().num_rows(2**30, 10_000) == 16
    assert jaxode.Discrete().num_rows(8, 64) == 64
    # Enough for steps that are repeated once at most.
    assert jaxode.Discrete().num_rows(2**30, 64) == 8
    assert jaxode.Discrete().num_rows(2**30, 65) == 10


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="at least 2 states; got rows=1"):
        jaxode.Discrete(rows=1)


# What it costs


class Oscillating(eqx.Module):
    frequency: jax.Array

    def __call__(self, t, y, k):
        return -k * y * jnp.sin(self.frequency * t)


def test_field_is_called_as_often_as_reported():
    counts = Counts()
    field = Counting(Oscillating(jnp.array(3.0)), counts)

    def loss(k, y0):
        ts = [0.0, 0.7, 2.0]
        ys = jaxode.odeint(field, y0, ts, k, adjoint="discrete", throw=False).ys
        return jnp.sum(ys**2)

    def with_nfe(k, y0):
        solution = jaxode.odeint(field, y0, [0.0, 0.7, 2.0], k, throw=False)
        return solution.stats.nfe

    y0, k = jnp.array([1.0, 2.0]), jnp.array(0.5)
    nfe = jax.jit(with_nfe)(k, y0)
    assert counts.read()[0] == nfe
    _, _, backward = jax.jit(jaxode.value_and_grad_with_stats(loss))(k, y0)
    _, vjps = counts.read()
    assert vjps == backward.nfe


def test_program_calls_no_host_and_can_be_exported():
    field, y0, ts, args = PROBLEMS["decay"].arrays(jnp.float32)

    def loss(y0, ts, args):
        ys = jaxode.odeint(field, y0, ts, args, adjoint="discrete", throw=False).ys
        return weighted_sum(ys)

    text = jax.jit(jax.grad(loss)).lower(y0, ts, args).as_text()
    assert "callback" not in text


# What a rejected step cannot do


def test_a_rejected_step_outside_the_domain_leaves_no_nan():
    """Jax 14612: the derivative of sqrt at 0 is infinite, times zero it is NaN."""
    tank = lambda t, y, k: -k * jnp.sqrt(y)

    def end(y0):
        solution = jaxode.odeint(tank, y0, [0.0, 1.9], 1.0, adjoint="discrete")
        return solution.ys[-1], solution.stats

    (y1, stats), slope = jax.value_and_grad(end, has_aux=True)(jnp.array(1.0))
    assert stats.num_rejected_steps > 0
    # y = (1 - t/2)^2 and dy/dy0 = 1 - t/2. The tolerance is 1e-3 of the state's size.
    assert abs(y1 - 0.0025) < 1e-4
    assert abs(slope - 0.05) < 1e-2


def test_a_failed_solve_that_is_masked_out_leaves_the_others_their_gradient():
    """Optimistix 66: y0 = 3 blows up at t = 1/3."""
    field = lambda t, y, a: a * y**2

    def loss(a, adjoint):
        def solve(y0):
            settings: dict[str, Any] = dict(max_steps=100, throw=False, rtol=1e-6)
            return jaxode.odeint(field, y0, [0.0, 1.0], a, adjoint=adjoint, **settings)

        solutions = jax.vmap(solve)(jnp.array([0.2, 0.5, 3.0]))
        ends = jnp.where(solutions.stats.success, solutions.ys[:, -1], 0.0)
        return jnp.sum(ends)

    for adjoint in ("discrete", "backsolve"):
        slope = jax.grad(loss)(jnp.array(1.0), adjoint)
        # d/da y0 / (1 - a y0) = (y0 / (1 - a y0))^2: 0.0625 + 1. Observed 2e-6.
        assert abs(slope - 1.0625) < 2e-5


# Inside transformations


def test_second_derivative_forward_over_reverse(x64):
    field, y0, ts, args = PROBLEMS["logistic"].arrays(jnp.float64)

    def hessian_vector(solve):
        loss = lambda y0: weighted_sum(jnp.sin(solve(field, y0, ts, args)))
        direction = jnp.cos(jnp.arange(y0.size, dtype=y0.dtype)).reshape(y0.shape)
        return quick_jit(lambda y: jax.jvp(jax.grad(loss), (y,), (direction,))[1])(y0)

    ours = lambda *problem: jaxode.odeint(*problem, adjoint="discrete", **TIGHT).ys
    actual, expected = map(hessian_vector, (ours, PROBLEMS["logistic"].exact))
    # Observed 2e-8.
    assert relative_error(actual, expected) < 2e-7


def test_vmap_over_times_takes_the_steps_of_each(x64):
    field, y0, ts, args = PROBLEMS["forced"].arrays(jnp.float64)
    lengths = jnp.array([0.3, 1.0, 2.0])

    def one(length, y0):
        loss = lambda y0: weighted_sum(solve(y0).ys)
        solve = lambda y0: jaxode.odeint(
            field, y0, length * ts, args, adjoint=jaxode.Discrete(rows=8), **TIGHT
        )
        return solve(y0).stats, jax.grad(loss)(y0)

    stats, together = quick_jit(jax.vmap(one, (0, None)))(lengths, y0)
    single = [quick_jit(one)(length, y0) for length in lengths]
    steps = [int(own.num_steps) for own, _ in single]
    assert stats.num_steps.tolist() == steps
    assert len(set(steps)) == 3
    # Observed 1e-15.
    assert relative_error(together, jnp.stack([grad for _, grad in single])) < 1e-13


def test_batched_loop_selects_rows_and_not_buffers():
    """A batched predicate would copy every buffer in every turn (`lanes.py`)."""
    field, y0, ts, args = PROBLEMS["decay"].arrays(jnp.float32)

    def loss(y0s):
        solve = lambda y0: jaxode.odeint(
            field, y0, ts, args, adjoint=jaxode.Discrete(rows=500), throw=False
        )
        return weighted_sum(jax.vmap(solve)(y0s).ys)

    text = jax.jit(jax.grad(loss)).lower(jnp.stack([y0, 2 * y0])).as_text()
    selects = [line for line in text.splitlines() if "stablehlo.select" in line]
    buffers = [line for line in selects if re.search(r"x501x(\d+x)*f", line)]
    assert selects and not buffers


@needs_shard_map
def test_shard_map_solves_and_differentiates_each_part():
    """Diffrax 735 and 765: Diffrax's loop does not trace there."""
    field, y0, ts, args = PROBLEMS["logistic"].arrays(jnp.float32)
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    batch = PartitionSpec("batch")

    def loss(y0, args):
        def part(y0, args):
            ys = jaxode.odeint(field, y0, ts, args, adjoint="discrete", throw=False).ys
            return ys[-1]

        whole = jax.shard_map(
            part, mesh=mesh, in_specs=(batch, PartitionSpec()), out_specs=batch
        )
        return weighted_sum(whole(y0, args))

    alone = lambda y0, args: weighted_sum(
        jaxode.odeint(field, y0, ts, args, adjoint="discrete", throw=False).ys[-1]
    )
    args = args.mean()
    actual = jax.jit(jax.grad(loss, (0, 1)))(y0, args)
    assert relative_error(actual, jax.jit(jax.grad(alone, (0, 1)))(y0, args)) < 1e-6
