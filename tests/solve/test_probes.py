"""Settings that reach solves inside a function, and nothing beyond it."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import each_adjoint

import jaxode
from jaxode._solve.probes import in_force, InForce, overriding


TS = jnp.array([0.0, 1.0])


# One function: for another object, though it does the same, a solve is compiled anew.
decay = lambda t, y, a: -a * y


def solve(rate: jax.Array, **settings) -> jaxode.Solution:
    """Decay from 1 over one unit of time."""
    return jaxode.odeint(decay, jnp.array(1.0), TS, rate, **settings)


def loss(rate: jax.Array) -> jax.Array:
    return solve(rate, rtol=1e-4).ys[-1]


def test_settings_replace_those_of_the_caller():
    rate = jnp.array(2.0)
    with overriding(replacements=dict(rtol=1e-6, atol=1e-6)):
        inside = solve(rate, rtol=1e-1)
    alone = solve(rate, rtol=1e-6, atol=1e-6)
    assert inside.stats.num_steps == alone.stats.num_steps
    assert inside.stats.num_steps > solve(rate, rtol=1e-1).stats.num_steps


def test_settings_reach_a_function_that_was_compiled_before():
    jitted = jax.jit(lambda rate: solve(rate, rtol=1e-1).stats.num_steps)
    rate = jnp.array(2.0)
    coarse = jitted(rate)
    with overriding(replacements=dict(rtol=1e-6, atol=1e-6)):
        fine = jitted(rate)
    assert fine > coarse == jitted(rate)


def test_nothing_is_left_after_an_error():
    with pytest.raises(ZeroDivisionError), overriding(replacements=dict(rtol=1.0)):
        raise ZeroDivisionError
    assert in_force() == InForce()


def test_statistics_come_out_of_a_loss_that_was_compiled_before():
    jitted = jax.jit(loss)
    rate = jnp.array(2.0)
    value = jitted(rate)
    out, grad, stats = jaxode.value_and_grad_with_stats(jitted)(rate)
    assert out == value
    np.testing.assert_allclose(grad, -np.exp(-2.0), rtol=1e-3)  # observed 2e-5
    assert stats.nfe > 0 and stats.num_solves == 1
    # Nothing of the probe is left in the function.
    assert jitted(rate) == value


def test_statistics_come_out_of_a_compiled_gradient():
    def step(rate):
        return jaxode.value_and_grad_with_stats(loss)(rate)

    eager, compiled = step(jnp.array(2.0)), jax.jit(step)(jnp.array(2.0))
    assert eager[2].nfe == compiled[2].nfe > 0
    assert eager[2].num_steps == compiled[2].num_steps > 0


def test_statistics_add_up_over_a_scan():
    def total(rate):
        add = lambda sum_, scale: (sum_ + loss(rate * scale), None)
        return jax.lax.scan(add, jnp.array(0.0), jnp.array([0.5, 1.0, 2.0]))[0]

    with_stats = lambda f: jaxode.value_and_grad_with_stats(f)(jnp.array(2.0))[2]
    once = [with_stats(lambda rate, s=s: loss(rate * s)) for s in (0.5, 1.0, 2.0)]
    together = with_stats(total)
    assert together.num_solves == 3
    assert together.nfe == sum(stats.nfe for stats in once)


def test_solve_inside_a_field_is_not_counted_by_itself():
    def outer(t, y, args):
        return -solve(args, solver=diffrax.Heun(), throw=False).ys[-1] * y

    def loss(rate):
        solver, y0 = diffrax.Heun(), jnp.array(1.0)
        solution = jaxode.odeint(
            outer, y0, TS, rate, solver=solver, adjoint="backsolve", rtol=1e-2
        )
        return solution.ys[-1]

    _, grad, stats = jaxode.value_and_grad_with_stats(loss)(jnp.array(2.0))
    assert stats.num_solves == 1 and stats.nfe > 0
    # y(1) = exp(-exp(-rate)). Observed 7e-4.
    np.testing.assert_allclose(grad, np.exp(-np.exp(-2.0) - 2.0), rtol=5e-3)


def test_auxiliary_output_is_returned_beside_the_loss():
    def with_aux(rate):
        solution = solve(rate)
        return solution.ys[-1], solution.stats.nfe

    (value, nfe), grad, stats = jaxode.value_and_grad_with_stats(with_aux)(
        jnp.array(1.0)
    )
    # Another program, so equal to rounding only.
    np.testing.assert_allclose(value, solve(jnp.array(1.0)).ys[-1], rtol=1e-6)
    assert nfe == solve(jnp.array(1.0)).stats.nfe
    assert grad < 0 < stats.nfe


def count_compilations(run) -> int:
    """Programs that XLA is asked for while `run` runs."""
    events = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(run())
    finally:
        # Before JAX 0.9 it stays, and tells nobody.
        if hasattr(jax.monitoring, "unregister_event_duration_listener"):
            jax.monitoring.unregister_event_duration_listener(listen)
    return len(events)


@each_adjoint("discrete", "backsolve")
def test_second_eager_call_compiles_nothing(adjoint):
    def loss(rate):
        return solve(rate, adjoint=adjoint, max_steps=32).ys[-1]

    run = lambda rate: jaxode.value_and_grad_with_stats(loss)(jnp.array(rate))
    plain = lambda rate: jax.value_and_grad(loss)(jnp.array(rate))
    assert count_compilations(lambda: (run(1.5), plain(1.5), loss(jnp.array(1.5)))) > 0
    assert count_compilations(lambda: (run(2.0), plain(2.0), loss(jnp.array(2.0)))) == 0
    _, grad, counts = run(2.0)
    np.testing.assert_allclose(grad, -np.exp(-2.0), rtol=1e-2)
    assert counts.num_solves == 1 and counts.nfe > 0


def test_eager_calls_with_a_compiled_function_inside_do_not_share_its_trace():
    """One of the labels is used again by each call that finds it clean."""
    jitted = jax.jit(loss)
    rate = jnp.array(2.0)
    both = lambda rate: loss(rate) + jitted(rate)
    for function, solves in ((loss, 1), (jitted, 1), (loss, 1), (both, 2), (jitted, 1)):
        _, grad, counts = jaxode.value_and_grad_with_stats(function)(rate)
        assert counts.num_solves == solves and counts.nfe > 0
        np.testing.assert_allclose(grad, -solves * np.exp(-2.0), rtol=1e-3)


def test_gradient_inside_a_loss_has_a_probe_of_its_own():
    jitted = jax.jit(loss)

    def outer(rate):
        _, grad, inner = jaxode.value_and_grad_with_stats(jitted)(rate)
        return jitted(rate) + 0 * jax.lax.stop_gradient(grad), inner

    for _ in range(2):
        (_, inner), grad, counts = jaxode.value_and_grad_with_stats(outer)(
            jnp.array(2.0)
        )
        assert inner.num_solves == counts.num_solves == 1
        np.testing.assert_allclose(grad, -np.exp(-2.0), rtol=1e-3)
