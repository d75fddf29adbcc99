"""Updates that are skipped, in a loop of one's own around a solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import quick_jit

import jaxode
from jaxode.training import raise_if_stuck, skip_failed, SkipState, StuckError


PARAMS = {"rate": jnp.array(1.0), "start": jnp.array([1.0, 2.0])}
GRADS = {"rate": jnp.array(0.5), "start": jnp.array([-1.0, 0.25])}


def equal(a: Any, b: Any) -> bool:
    return bool(eqx.tree_equal(a, b))


def test_updates_are_those_of_the_optimiser_as_long_as_nothing_fails():
    plain, safe = optax.adam(0.1), skip_failed(optax.adam(0.1))
    plain_state = plain.init(PARAMS)
    state: Any = safe.init(PARAMS)
    for scale in (1.0, -2.0, 0.5):
        grads = jax.tree.map(lambda g, s=scale: s * g, GRADS)
        with jax.numpy_dtype_promotion("standard"):
            expected, plain_state = plain.update(grads, plain_state, PARAMS)
        updates, state = safe.update(grads, state, PARAMS, value=jnp.array(1.0))
        assert equal(updates, expected)
    assert equal(state.inner, plain_state) and state.total == 0


BAD: dict[str, dict[str, Any]] = {
    "a failed solve": dict(failed=jnp.array([False, True])),
    "a loss that is a NaN": dict(value=jnp.nan),
    "a gradient that is infinite": dict(grads=GRADS | {"rate": jnp.array(jnp.inf)}),
    "a parameter that would overflow": dict(
        params=PARAMS | {"rate": jnp.array(-3e38)}, grads=GRADS | {"rate": 3e38}
    ),
}


@pytest.mark.parametrize("why", BAD)
def test_update_is_skipped_and_counted_after(why):
    given: dict[str, Any] = dict(grads=GRADS, params=PARAMS) | BAD[why]
    grads, params = given.pop("grads"), given.pop("params")
    grads = jax.tree.map(jnp.asarray, grads)
    optimiser = skip_failed(optax.sgd(1.0, momentum=0.9))
    update = quick_jit(optimiser.update)
    _, before = update(GRADS, optimiser.init(PARAMS), PARAMS)
    updates, state = update(grads, before, params, **given)
    assert equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    assert equal(state.inner, before.inner)
    assert (state.in_a_row, state.total) == (1, 1)
    # The next one that is fine goes on from there.
    _, after = update(GRADS, state, PARAMS)
    assert (after.in_a_row, after.total) == (0, 1)


def test_optax_own_wrapper_takes_what_a_failed_solve_left():
    """Why there is this one: a finite gradient of half a solve is applied."""
    updates, _ = optax.apply_if_finite(optax.sgd(1.0), 10).update(
        GRADS, optax.apply_if_finite(optax.sgd(1.0), 10).init(PARAMS), PARAMS
    )
    assert any(np.any(u) for u in jax.tree.leaves(updates))


def test_ten_in_a_row_are_too_many():
    optimiser = optax.chain(optax.clip(1.0), skip_failed(optax.sgd(1.0)))
    state = optimiser.init(PARAMS)
    update = quick_jit(optimiser.update)
    for _ in range(9):
        _, state = update(GRADS, state, PARAMS, failed=True)
        raise_if_stuck(state)
    _, state = update(GRADS, state, PARAMS, failed=True)
    with pytest.raises(StuckError, match="10 updates in a row were skipped .10 in all"):
        raise_if_stuck(state)


def test_bad_uses_are_refused():
    with pytest.raises(ValueError, match="max_in_a_row must be a positive.*got 0"):
        skip_failed(optax.sgd(1.0), 0)
    with pytest.raises(ValueError, match="found no state of skip_failed"):
        raise_if_stuck(optax.sgd(1.0).init(PARAMS))


def test_training_survives_batches_whose_solve_fails():
    """Every third push takes more steps than there may be; the rest teach."""
    optimiser = skip_failed(optax.adam(0.05))
    field = lambda t, y, args: args[0] * y**2 + args[1] * jnp.cos(50 * args[1] * t)

    def loss_fn(rate, push):
        sol = jaxode.odeint(
            field, jnp.array(1.0), [0.0, 1.0], (rate, push), throw=False, max_steps=64
        )
        return (sol.ys[-1] - 0.5) ** 2, sol.stats

    @quick_jit
    def step(rate, state, push):
        compute = jaxode.value_and_grad_with_stats(loss_fn)
        (loss, stats), grads, back = compute(rate, push)
        failed = ~stats.success | (back.num_failures > 0)
        updates, state = optimiser.update(grads, state, rate, failed=failed, value=loss)
        return optax.apply_updates(rate, updates), state, loss

    rate = jnp.array(-0.2)
    state = optimiser.init(rate)
    for i in range(120):
        push = 40.0 if i % 3 == 2 else 0.0
        rate, state, _ = step(rate, state, jnp.array(push))
    assert isinstance(state, SkipState)
    raise_if_stuck(state)
    assert state.total == 40
    # 1 / (1 - rate) = 1/2.
    np.testing.assert_allclose(rate, -1.0, atol=0.05)
