"""Which fields XLA:CPU would fuse with their readers, and what is done with them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from jaxode._steps.fusion import fuses_through
from jaxode._steps.noinline import noinline


ROWS = jnp.ones((8, 8))

apart = noinline()(jnp.sin)


@jax.custom_jvp
def bounded(x):
    return jnp.tanh(x)


bounded.defjvp(lambda x, dx: (bounded(x[0]), dx[0]))

FUSED = {
    "elementwise": lambda y: jnp.sin(y) * y,
    "stencil": lambda y: jnp.roll(y, 1) - y,
    "sum": lambda y: y - jnp.mean(y),
    "beside a product": lambda y: ROWS @ y - y,
    "within a call": lambda y: jax.jit(jnp.tanh)(y),
    "within a rule": lambda y: bounded(y),
    "product of a constant": lambda y: y + ROWS @ ROWS[0],
}
CUT = {
    "product": lambda y: jnp.tanh(ROWS @ y + 1),
    "product within a call": lambda y: jax.jit(lambda y: jnp.tanh(ROWS @ y))(y),
    "convolution": lambda y: jnp.convolve(y, jnp.ones(3), "same"),
    "loop": lambda y: jax.lax.fori_loop(0, 3, lambda _, x: x * y, y),
    "apart": lambda y: 2 * apart(y),
    "constant": lambda y: ROWS[0],
}


def verdict(field) -> bool:
    program = jax.make_jaxpr(lambda t, y: field(y))(0.0, jnp.ones(8))
    return fuses_through(program.jaxpr, [False, True])


@pytest.mark.parametrize("name", FUSED)
def test_path_of_operations_that_fuse_is_seen(name):
    assert verdict(FUSED[name])


@pytest.mark.parametrize("name", CUT)
def test_path_that_is_written_to_memory_on_the_way_is_cut(name):
    assert not verdict(CUT[name])


@pytest.mark.parametrize(
    ("field", "num_apart"), [(FUSED["stencil"], 6), (CUT["product"], 0)]
)
def test_calls_are_apart_only_where_they_would_fuse(field, num_apart):
    # Six new stages in a step of Dopri5, of which a forward solve has one.
    solve = lambda y: (
        jaxode.odeint(
            lambda t, y, args: field(y), y, jnp.array([0.0, 1.0]), throw=False
        ).ys
    )
    text = jax.jit(solve).lower(jnp.ones(8)).as_text()
    calls = [line for line in text.splitlines() if 'inlineable = "false"' in line]
    assert len([line for line in calls if "call @" in line]) == num_apart


def test_field_is_traced_once_for_a_step():
    traces = 0

    def field(t, y, args):
        nonlocal traces
        traces += 1
        return -y * t

    solver = jaxode.Unrolled(diffrax.Dopri5())
    term = diffrax.ODETerm(field)
    first = solver.init(term, 0.0, 0.1, jnp.ones(2), None)
    before = traces
    y1 = solver.step(term, 0.0, 0.1, jnp.ones(2), None, first, False)[0]
    assert traces - before == 1
    # Observed 1e-8: dy/dt = -ty.
    np.testing.assert_allclose(y1, np.exp(-0.005), rtol=1e-6)
