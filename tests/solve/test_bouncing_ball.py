"""A ball that bounces: one event after another, differentiated through all of them."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import each_adjoint, quick_jit, relative_error, weighted_sum


PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"
BOUNCES = 5


def recipe(whole: bool = False) -> dict[str, Any]:
    """What the page's recipe defines, as a reader gets it by copying it."""
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if "def bounces(" in block]
    names: dict[str, Any] = {}
    exec(block if whole else block[: block.index("\nargs =")], names)
    return names


def exact_bounces(height, args):
    """Times of the first bounces and states before them, from rest at a height."""
    g, e = args["g"], args["e"]
    first = jnp.sqrt(2 * height / g)
    powers = e ** jnp.arange(float(BOUNCES))
    flights = jnp.concatenate([jnp.ones(1), 2 * jnp.cumsum(powers[1:]) + 1])
    velocity = -g * first * powers
    return first * flights, jnp.stack([jnp.zeros(BOUNCES), velocity], axis=1)


@pytest.mark.slow
def test_recipe_runs_as_it_stands(capsys):
    assert "fifth" in recipe(whole=True)
    height, _, _ = re.findall(r"Array\((-?[\d.]+)", capsys.readouterr().out)
    times = lambda height: exact_bounces(height, {"g": 9.81, "e": jnp.array(0.8)})[0]
    expected = jax.jacobian(times)(jnp.array(2.0))[-1]
    assert abs(float(height) / expected - 1) < 1e-5


@pytest.mark.slow
@each_adjoint("discrete")
def test_128_balls_bounce_five_times(x64, adjoint):
    bounces = recipe()["bounces"]
    settings: dict[str, Any] = dict(
        adjoint=adjoint, rtol=1e-9, atol=1e-9, max_steps=64, throw=False
    )
    heights = jnp.linspace(0.1, 10.0, 128)
    args = {"g": jnp.array(9.81), "e": jnp.array(0.8)}

    def ours(height, args):
        return bounces(height, args, BOUNCES, **settings)[:2]

    def run(one):
        def loss(heights, args):
            found = jax.vmap(one, (0, None))(heights, args)
            return weighted_sum(found), found

        return quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    (_, (times, states)), actual = run(ours)(heights, args)
    (_, (times_exactly, states_exactly)), expected = run(exact_bounces)(heights, args)
    # Observed 2e-15: a parabola is solved without error.
    assert relative_error(times, times_exactly) < 1e-12
    assert relative_error(states, states_exactly) < 1e-12
    assert relative_error(actual, expected) < 1e-12
