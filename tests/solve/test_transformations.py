"""`odeint` inside JAX's transformations, inside itself, and with complex states."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from helpers import (
    each_adjoint,
    quick_jit,
    relative_error,
    some_slow,
    values_and_gradients,
    weighted_sum,
)
from problems import PROBLEMS

import jaxode


TIGHT: dict[str, Any] = dict(rtol=1e-9, atol=1e-9, max_steps=256, throw=False)
LOGISTIC = PROBLEMS["logistic"]


@each_adjoint("backsolve", "discrete")
def test_vmap_solves_and_differentiates_each_sample(x64, adjoint):
    field, y0, ts, args = LOGISTIC.arrays(jnp.float64)
    shifts = jnp.linspace(0.5, 1.5, 3)

    def over_samples(solve):
        def run(field, y0s, tss, args):
            return jax.vmap(lambda y0, ts: solve(field, y0, ts, args))(y0s, tss)

        samples = field, shifts[:, None] * y0[None], shifts[:, None] * ts[None], args
        return values_and_gradients(run)(*samples)

    solve = lambda *problem: jaxode.odeint(*problem, adjoint=adjoint, **TIGHT).ys
    # Observed at most 7e-9.
    assert relative_error(over_samples(solve), over_samples(LOGISTIC.exact)) < 5e-8


@each_adjoint("backsolve", "discrete")
def test_scan_over_solves_is_one_long_solve(x64, adjoint):
    field, y0, ts, args = LOGISTIC.arrays(jnp.float64)

    def in_pieces(field, y0, ts, args):
        def piece(y, ends):
            ys = jaxode.odeint(field, y, ends, args, adjoint=adjoint, **TIGHT).ys
            return ys[-1], ys[-1]

        _, ys = jax.lax.scan(piece, y0, jnp.stack([ts[:-1], ts[1:]], axis=1))
        return jnp.concatenate([y0[None], ys])

    run = lambda solve: values_and_gradients(solve)(field, y0, ts, args)
    # Observed at most 3e-9.
    assert relative_error(run(in_pieces), run(LOGISTIC.exact)) < 3e-8


NESTED = {
    "discrete": "discrete",
    "checkpoint": "backsolve",
    "backsolve": "direct",
    "direct": "checkpoint",
}


@pytest.mark.slow
@pytest.mark.parametrize("outer", some_slow(NESTED, "discrete"))
def test_solve_may_be_a_field_of_another(x64, outer):
    """dy/dt = -w(1) y, where w(1) = exp(rate) comes from solving dw/ds = rate w."""

    def solve(_, y0, ts, rate):
        grow = lambda s, w, rate: rate * w
        # Four stages: the compiler unfolds one solve in every stage of the other.
        common: dict[str, Any] = dict(solver=diffrax.Bosh3(), rtol=1e-6, atol=1e-6)
        common |= dict(max_steps=64, throw=False)
        inner: dict[str, Any] = common | dict(adjoint=NESTED[outer])

        def field(t, y, rate):
            w = jaxode.odeint(grow, jnp.ones(()), [0.0, 1.0], rate, **inner).ys
            return -w[-1] * y

        return jaxode.odeint(
            field,
            y0,
            ts,
            rate,
            adjoint=outer,
            **common,
        ).ys

    def exact(_, y0, ts, rate):
        return y0[None] * jnp.exp(-jnp.exp(rate) * (ts - ts[0]))[:, None]

    problem = (
        jnp.zeros(()),
        jnp.array([1.0, 0.5]),
        jnp.array([0.0, 0.7]),
        jnp.array(0.3),
    )
    run = lambda f: values_and_gradients(f)(*problem)
    (ys, (_, *bars)), (expected_ys, (_, *expected_bars)) = run(solve), run(exact)
    # Observed at most 5e-6.
    assert relative_error((ys, bars), (expected_ys, expected_bars)) < 5e-5


class Spiral(eqx.Module):
    """dz/dt = (i frequency - decay) z."""

    rate: Any

    def __call__(self, t, z, args):
        return jnp.asarray(self.rate, z.dtype) * z * args


def exact_spiral(field, z0, ts, args):
    return z0[None] * jnp.exp(field.rate * args * (ts - ts[0]).astype(complex))[:, None]


@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
@each_adjoint("backsolve", "discrete")
def test_complex_states_match_closed_form(x64, adjoint):
    problem = (
        Spiral(jnp.array(-0.3 + 2j)),
        jnp.array([1 + 0.5j, -0.2j]),
        jnp.array([1.2, 0.5, 0.1]),
        jnp.array(0.8 + 0.1j),
    )
    solve = lambda *problem: jaxode.odeint(*problem, adjoint=adjoint, **TIGHT).ys
    run = lambda f: values_and_gradients(f)(*problem)
    # Observed at most 6e-9.
    assert relative_error(run(solve), run(exact_spiral)) < 5e-8


def by_state_and_argument(solve: Any) -> Any:
    field, y0, ts, args = LOGISTIC.arrays(jnp.float64)
    loss = lambda y0, args: weighted_sum(solve(field, y0, ts, args))
    return loss, (y0, args)


SECOND = {
    "forward_over_reverse": ("direct", jax.jacfwd, jax.jacrev),
    "forward_over_discrete": ("discrete", jax.jacfwd, jax.jacrev),
    "forward_over_backsolve": ("backsolve", jax.jacfwd, jax.jacrev),
    "reverse_over_reverse": ("direct", jax.jacrev, jax.jacrev),
    "forward_over_forward": (diffrax.ForwardMode(), jax.jacfwd, jax.jacfwd),
}


@pytest.mark.parametrize("way", some_slow(SECOND, "forward_over_discrete"))
def test_second_derivatives_match_closed_form(x64, way):
    adjoint, second, first = SECOND[way]
    settings: dict[str, Any] = dict(rtol=1e-8, atol=1e-8, max_steps=64)
    settings |= dict(adjoint=adjoint, throw=False)

    def hessian(solve):
        loss, inputs = by_state_and_argument(solve)
        return quick_jit(second(first(loss, (0, 1)), (0, 1)))(*inputs)

    actual = hessian(lambda *problem: jaxode.odeint(*problem, **settings).ys)
    expected = hessian(LOGISTIC.exact)
    # The mixed part of two states is zero and makes no part of this scale by itself.
    assert relative_error(actual, expected) < 1e-6  # observed 5e-8


@pytest.mark.parametrize(
    ("adjoint", "second"),
    [
        ("discrete", jax.jacrev),
        ("backsolve", jax.jacrev),
        pytest.param("checkpoint", jax.jacrev, marks=pytest.mark.slow),
        pytest.param("checkpoint", jax.jacfwd, marks=pytest.mark.slow),
    ],
)
def test_second_derivatives_raise_where_there_are_none(adjoint, second):
    field, y0, ts, args = LOGISTIC.arrays(jnp.float32)

    def loss(y0):
        sol = jaxode.odeint(field, y0, ts, args, adjoint=adjoint, throw=False)
        return weighted_sum(sol.ys)

    with pytest.raises((TypeError, ValueError), match="forward-mode|Reverse-mode"):
        jax.jit(second(jax.grad(loss)))(y0)


@pytest.mark.parametrize("adjoint", ["discrete", "backsolve"])
def test_forward_mode_is_refused_with_what_to_type(adjoint):
    decay = lambda t, y, k: -k * y
    loss = lambda k: jaxode.odeint(decay, 1.0, [0.0, 1.0], k, adjoint=adjoint).ys[-1]
    for forward in (jax.jacfwd(loss), jax.jit(jax.jacfwd(loss))):
        with pytest.raises(TypeError, match="adjoint='direct', or take it by jax.grad"):
            forward(1.0)
