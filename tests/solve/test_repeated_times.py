"""Equal neighbours among the times, and samples with times of their own."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Counting, Counts, each_adjoint, quick_jit, relative_error, some_slow
from problems import Logistic, PROBLEMS

import jaxode


TIGHT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10, throw=False)
LOGISTIC = PROBLEMS["logistic"]

REPEATED = {
    "at_the_ends": [0.2, 0.2, 0.5, 0.5, 0.5, 0.9, 0.9],
    "everywhere": [0.2] * 3,
    "two": [0.2, 0.2],
}


def gradients(solve, problem, weights):
    """Times, rows and gradients of a loss in which every row counts differently."""

    def loss(arguments):
        ys = solve(*arguments)
        return jnp.tensordot(weights, jnp.sum(ys, axis=1), 1), ys

    (_, ys), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(problem)
    return ys, grads


@each_adjoint("discrete", "backsolve")
@pytest.mark.parametrize("reverse", some_slow([False, True], False))
@pytest.mark.parametrize("fixed", some_slow([False, True], False))
def test_equal_times_have_equal_rows_and_their_sum_of_gradients(
    x64, adjoint, reverse, fixed
):
    field, y0, _, args = LOGISTIC.arrays(jnp.float64)
    ts = jnp.array(REPEATED["at_the_ends"])
    ts = ts[::-1] if reverse else ts
    settings: dict[str, Any] = TIGHT | dict(max_steps=256)
    if fixed:
        settings |= dict(rtol=None, dt0=-0.01 if reverse else 0.01)
    solve = lambda *p: jaxode.odeint(*p, adjoint=adjoint, **settings).ys
    weights = jnp.arange(1.0, len(ts) + 1)
    problem = field, y0, ts, args
    ys, actual = gradients(solve, problem, weights)
    _, expected = gradients(LOGISTIC.exact, problem, weights)
    equal = np.diff(ts) == 0
    assert np.all(np.diff(ys, axis=0)[equal] == 0)
    # Observed at most 5e-10.
    assert relative_error(actual, expected) < 5e-9


@each_adjoint("discrete", "backsolve")
@pytest.mark.parametrize("name", some_slow(["everywhere", "two"], "everywhere"))
@pytest.mark.parametrize("fixed", some_slow([False, True], True))
def test_a_solve_of_no_length_is_the_identity(x64, adjoint, name, fixed):
    field, y0, _, args = LOGISTIC.arrays(jnp.float64)
    assert isinstance(field, Logistic)
    ts = jnp.array(REPEATED[name])
    settings: dict[str, Any] = dict(adjoint=adjoint, throw=False, max_steps=64)
    if fixed:
        settings |= dict(rtol=None, dt0=0.1)

    def loss(field, y0, ts, args):
        solution = jaxode.odeint(field, y0, ts, args, **settings)
        return jnp.sum(solution.ys), solution

    gradient = quick_jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (_, solution), (by_field, by_y0, by_ts, by_args) = gradient(field, y0, ts, args)
    assert solution.stats.success and solution.stats.num_steps == 0
    np.testing.assert_array_equal(solution.ys, np.stack([y0] * len(ts)))
    np.testing.assert_array_equal(by_y0, np.full(2, len(ts)))
    assert not np.any(by_field.rate) and not np.any(by_args)
    # A row moves with its own time, and against the time at which it starts.
    slope = jnp.sum(field(ts[0], y0, args))
    expected = slope * jnp.ones(len(ts)).at[0].set(1 - len(ts))
    np.testing.assert_allclose(by_ts, expected, rtol=1e-14)


@pytest.mark.parametrize(
    "solver",
    some_slow(
        [diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Bosh3(), diffrax.Kvaerno5()],
    ),
    ids=lambda solver: type(solver).__name__,
)
def test_rows_are_equal_whatever_interpolates_between_steps(x64, solver):
    field, y0, _, args = LOGISTIC.arrays(jnp.float64)
    ts = jnp.array(REPEATED["at_the_ends"])
    for adjoint in ("discrete", "checkpoint"):
        ys = jaxode.odeint(field, y0, ts, args, solver=solver, adjoint=adjoint).ys
        assert np.all(np.diff(ys, axis=0)[np.diff(ts) == 0] == 0)


def test_repeated_times_cost_no_step_and_no_call():
    counts = Counts()
    field, y0, _, args = LOGISTIC.arrays(jnp.float32)
    run = lambda ts: jaxode.odeint(Counting(field, counts), y0, ts, args).stats
    once, repeated = [0.2, 0.5, 0.9], REPEATED["at_the_ends"]
    stats = [run(jnp.array(ts)) for ts in (once, repeated)]
    assert stats[0].num_steps == stats[1].num_steps > 0
    nfe = [stat.nfe for stat in stats]
    assert nfe[0] == nfe[1]
    assert counts.read()[0] == sum(int(n) for n in nfe if n is not None)


@each_adjoint("discrete", "backsolve")
def test_traced_times_are_taken_as_concrete_ones_are(adjoint):
    decay = lambda t, y, a: -a * y
    settings: dict[str, Any] = dict(adjoint=adjoint, max_steps=64, throw=False)
    run = lambda ts: jaxode.odeint(decay, jnp.array(1.0), ts, 1.0, **settings)
    ts = jnp.array([0.0, 0.5, 1.0, 1.0])
    jitted = jax.jit(run)
    # exp(-t); observed 4e-4 off, at a tolerance of 1e-3.
    expected = [1, 0.6065, 0.3679, 0.3679]
    np.testing.assert_allclose(run(ts).ys, expected, atol=1e-3)
    np.testing.assert_allclose(jitted(ts).ys, expected, atol=1e-3)
    solution = jitted(jnp.array([0.0, jnp.nan, 1.0, 1.0]))
    assert solution.result != diffrax.RESULTS.successful
    assert not solution.stats.success


# Samples with times of their own


def ragged_batch():
    """64 samples of 1 to 12 times that start at 0.2."""
    rng = np.random.default_rng(0)
    lengths = [1 + i % 12 for i in range(64)]
    times = [np.append(0.2, 0.2 + np.sort(rng.uniform(0, 2, n - 1))) for n in lengths]
    y0 = rng.uniform(0.1, 1.0, (64, 2))
    data = [rng.normal(size=(n, 2)) for n in lengths]
    return times, y0, data


@each_adjoint("discrete")
def test_gradient_of_a_padded_batch_is_the_sum_of_those_of_its_samples(x64, adjoint):
    times, y0s, data = ragged_batch()
    field, _, _, args = LOGISTIC.arrays(jnp.float64)
    settings: dict[str, Any] = TIGHT | dict(adjoint=adjoint, max_steps=256)
    ts, mask = jaxode.pad_times(times)
    longest = ts.shape[1]
    pad = lambda rows: np.pad(rows, [(0, longest - len(rows)), (0, 0)])
    targets = jnp.stack([pad(rows) for rows in data])

    def sample_loss(parameters, y0, ts, targets, mask):
        field, args = parameters
        ys = jaxode.odeint(field, y0, ts, args, **settings).ys
        return jnp.sum(jnp.where(mask[:, None], (ys - targets) ** 2, 0))

    def together(parameters, y0s):
        batched = jax.vmap(sample_loss, (None, 0, 0, 0, 0))
        return jnp.sum(batched(parameters, y0s, ts, targets, jnp.asarray(mask)))

    parameters = field, args
    actual = quick_jit(jax.grad(together, argnums=(0, 1)))(parameters, jnp.array(y0s))

    # Sample after sample without filling, in closed form.
    lengths = [len(row) for row in times]
    flat_times, flat_data = jnp.concatenate(times)[:, None], jnp.concatenate(data)

    def one_by_one(parameters, y0s):
        (field, args), starts = parameters, jnp.repeat(y0s, np.array(lengths), axis=0)
        at = lambda y0, t: LOGISTIC.exact(field, y0, jnp.stack([ts[0, 0], t[0]]), args)
        return jnp.sum((jax.vmap(at)(starts, flat_times)[:, -1] - flat_data) ** 2)

    expected = quick_jit(jax.grad(one_by_one, argnums=(0, 1)))(
        parameters, jnp.array(y0s)
    )
    # Observed 1.3e-9, by the solve's tolerance.
    assert relative_error(actual, expected) < 1e-8


def test_union_of_the_times_gives_each_sample_its_rows(x64):
    times, y0s, _ = ragged_batch()
    times, y0s = times[:13], y0s[:13]
    field, _, _, args = LOGISTIC.arrays(jnp.float64)
    for sign in (1, -1):
        own = [sign * row for row in times]
        ts, index, mask = jaxode.union_times(own)
        assert len(ts) == len(np.unique(np.concatenate(own)))
        rows = np.stack([ts[i] for i in index])
        padded, padded_mask = jaxode.pad_times(own)
        np.testing.assert_array_equal(rows, padded)
        np.testing.assert_array_equal(mask, padded_mask)
    ts, index, mask = jaxode.union_times(times)
    one_ode = lambda t, y, args: jax.vmap(field, (None, 0, None))(t, y, args)
    ys = jaxode.odeint(one_ode, jnp.array(y0s), ts, args, **TIGHT).ys
    picked = ys[index, jnp.arange(len(times))[:, None]]
    exact = jax.vmap(LOGISTIC.exact, (None, 0, 0, None))
    expected = exact(field, jnp.array(y0s), padded * -1, args)
    # Observed 2e-10.
    assert relative_error(picked, expected) < 5e-10


BAD_SAMPLES = {
    "none": ([], ValueError, "times is empty; pass a list"),
    "matrix": ([np.ones((2, 2))], ValueError, r"times\[0\] has shape \(2, 2\)"),
    "no_times": ([[0.0], np.ones(0)], ValueError, r"times\[1\] has shape \(0,\)"),
    "integers": ([[0.0], np.arange(3)], TypeError, r"times\[1\] has dtype int64"),
}


@pytest.mark.parametrize(
    ("times", "error", "match"), BAD_SAMPLES.values(), ids=BAD_SAMPLES
)
def test_bad_samples_are_refused(times, error, match):
    for helper in (jaxode.pad_times, jaxode.union_times):
        with pytest.raises(error, match=match):
            helper(times)


def test_union_refuses_samples_that_do_not_go_together():
    with pytest.raises(ValueError, match=r"times\[1\] starts at 0.5 and times\[0\] at"):
        jaxode.union_times([[0.0, 1.0], [0.5, 1.0]])
    with pytest.raises(ValueError, match=r"times\[1\] is \[0. 2. 1.\]; all samples"):
        jaxode.union_times([[0.0, 1.0], [0.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match=r"times\[1\] is \[0. 1.\]; .*one direction"):
        jaxode.union_times([[0.0, -1.0], [0.0, 1.0]])
    with pytest.raises(TypeError, match="some are traced by jax; call it outside"):
        jax.jit(lambda t: jaxode.union_times([t])[0])(jnp.ones(2))
