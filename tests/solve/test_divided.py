"""Solves divided over a mesh: what comes out, and what the devices exchange.

The truth is the whole batch on one device, or, where each device controls its own
steps, solves of its rows alone. Four devices are simulated in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import pytest
from helpers import relative_error

import jaxode
from jaxode._solve.pooling import check_norm


def run(*cases: str) -> list[dict]:
    """What `divided.py` prints of these cases."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("divided.py")), *cases],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kinds(case: dict, where: str) -> dict[str, int]:
    """Exchanges in loops, or outside."""
    return case["exchanges"][where]


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_pooled_norm_gives_the_steps_and_gradients_of_the_whole_batch():
    """Values, counts, gradients by field, y0, args and ts, and backward counts."""
    discrete, backsolve, direct = run(
        "pooled:discrete", "pooled:backsolve", "pooled:direct"
    )
    for case in (discrete, backsolve, direct):
        # In double precision; observed 4e-13 and, for backsolve, 8e-12.
        assert case["difference"] < 1e-10
        assert case["steps"] == 8
        assert not any("gather" in kind for kind in kinds(case, "loops"))
    # One number for each norm; the parameters' gradients, 48 + 8, once at the end.
    assert kinds(discrete, "loops") == {"all-reduce 1": 1}
    # One for each step forwards and one backwards, three for each interval. And the
    # parameters: their cotangent before and after a step, and its error, at once.
    assert kinds(backsolve, "loops") == {"all-reduce 1": 5, f"all-reduce {3 * 56}": 1}


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_devices_that_step_alone_exchange_nothing_within_a_solve():
    """The field closes over its arrays, which are the same on all devices."""
    (case,) = run("separate:discrete")
    assert case["difference"] < 1e-13  # observed 1.4e-16
    assert kinds(case, "loops") == {}


@pytest.mark.skipif(
    not hasattr(jax.lax, "pcast"), reason="shard_map of JAX before 0.9 differs"
)
@pytest.mark.slow
def test_automatic_sharding_gathers_no_state_and_sums_gradients_in_every_step():
    (case,) = run("automatic:discrete")
    assert case["difference"] < 1e-10  # observed 2.5e-13
    loops = kinds(case, "loops")
    assert all(kind.startswith("all-reduce") for kind in loops)
    assert loops["all-reduce 24"] >= 2


def test_pooled_norm_under_vmap_is_that_of_the_batch():
    """Rows as lanes with an axis name take the steps of all rows as one state."""
    rows = jnp.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]])
    field = lambda t, y, a: -a * y**3
    ts = jnp.array([0.0, 1.0])
    solve = lambda y, norm=None: jaxode.odeint(
        field, y, ts, 2.0, norm=norm, throw=False, solver=diffrax.Bosh3()
    )
    norm = jaxode.PooledNorm("rows")
    lanes = jax.jit(jax.vmap(lambda y: solve(y, norm), axis_name="rows"))(rows)
    whole = jax.jit(solve)(rows)
    assert lanes.stats.num_steps.tolist() == [int(whole.stats.num_steps)] * 3
    # Observed 1e-7: the sum of squares is taken in another order.
    assert relative_error(lanes.ys[:, -1], whole.ys[-1]) < 1e-5


def test_wrong_use_of_a_pooled_norm_is_refused():
    y0, ts = jnp.ones(2), [0.0, 1.0]
    field = lambda t, y, args: -y
    norm = jaxode.PooledNorm("batch")
    with pytest.raises(TypeError, match="such as jaxode.PooledNorm"):
        check_norm("batch", diffrax.Dopri5(), None)
    with pytest.raises(ValueError, match="Kvaerno5 solves equations"):
        jaxode.odeint(field, y0, ts, norm=norm, solver=diffrax.Kvaerno5())
    with pytest.raises(ValueError, match="leave norm out of odeint_event"):
        jaxode.odeint_event(field, y0, ts, lambda t, y, a: y[0] - 0.5, norm=norm)
    with pytest.raises(ValueError, match="per_sample=True there is none"):
        jaxode.nn.ODEBlock(field, per_sample=True, norm=norm)
    with pytest.raises(ValueError, match="samples=0"):
        jaxode.PooledNorm("batch", samples=0)
    own = diffrax.PIDController(rtol=1e-3, atol=1e-6, norm=jnp.max)
    with pytest.raises(ValueError, match="one with a norm of its own"):
        jaxode.odeint(field, y0, ts, norm=norm, controller=own)
