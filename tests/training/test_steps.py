"""Training steps and evaluation, mostly on a linear classifier that needs no solve."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode
from jaxode._solve.adjoints import Backsolve
from jaxode._solve.odeint import odeint
from jaxode._solve.probes import value_and_grad_with_stats
from jaxode._solve.stats import SolveStats
from jaxode.training.batches import epoch_order
from jaxode.training.evaluation import evaluate
from jaxode.training.metrics import Metrics
from jaxode.training.steps import (
    MAX_SKIPPED_IN_A_ROW,
    train_step,
    train_steps,
    TrainState,
)
from jaxode.training.train_data import TrainData


class Linear(eqx.Module):
    """Softmax regression on the mean of each image row; fails where told to.

    An image whose first pixel is 255 makes the solve fail, one with 254 makes the
    logits NaN, one with 253 makes the gradient infinite and leaves the loss finite.
    """

    weight: jax.Array
    on_trace: Callable[[], None] = eqx.field(static=True, default=lambda: None)

    def with_stats(self, images):
        self.on_trace()
        flags = images[:, 0, 0, 0]
        rows = images.astype(jnp.float32).mean(axis=(2, 3)) / 255
        logits = rows @ self.weight
        has_nan = (flags == 254)[:, None]
        logits = jnp.where(has_nan, jnp.nan, logits)
        # sqrt at zero: the value is fine and the derivative is not.
        zero_sum = jnp.sum(self.weight) - jax.lax.stop_gradient(jnp.sum(self.weight))
        has_cusp = (flags == 253)[:, None]
        root = jnp.sqrt(jnp.where(has_cusp, zero_sum, 1.0))
        logits += jnp.where(has_cusp, root, 0.0)
        zero = jnp.asarray(0, jnp.int32)
        stats = SolveStats(
            nfe=zero + 7,
            num_steps=zero,
            num_accepted_steps=zero,
            num_rejected_steps=zero,
            last_step=jnp.asarray(1.0),
            success=~jnp.any(flags == 255),
        )
        return logits, stats


class TimeFree(eqx.Module):
    """dy/dt = layer(y)."""

    layer: eqx.nn.MLP

    def __call__(self, t, y, args):
        return self.layer(y)


def make_data(count: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 250, (count, 28, 28, 1)).astype(np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, count, np.int32))


def make_state(
    optimiser: optax.GradientTransformation, on_trace: Callable = lambda: None
) -> TrainState:
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.normal(size=(28, 10)).astype(np.float32))
    return TrainState.create(Linear(weight, on_trace), optimiser)


def flag(images: jax.Array, value: int) -> jax.Array:
    """Marks the first image of a batch; see `Linear`."""
    return images.at[0, 0, 0, 0].set(value)


def same_bits(left, right) -> bool:
    leaves = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)


def rows(first: int, last: int) -> jax.Array:
    return jnp.asarray([first, last], jnp.int32)


SGD = optax.sgd(0.5, momentum=0.9)


# One step


def test_step_equals_softmax_regression_by_hand():
    images, labels = make_data(20)
    state = make_state(SGD)
    weight = np.asarray(state.model.weight, np.float64)
    x = np.asarray(images, np.float64).mean(axis=(2, 3)) / 255
    logits = x @ weight
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    grad = x.T @ (probabilities - np.eye(10)[np.asarray(labels)]) / 20
    state, metrics = train_step(state, images, labels, optimiser=SGD)
    # Observed 3e-8.
    np.testing.assert_allclose(state.model.weight, weight - 0.5 * grad, atol=5e-7)
    assert (int(state.step), int(state.skipped_in_a_row)) == (1, 0)
    assert (int(metrics.total), int(metrics.batches)) == (20, 1)
    assert (int(metrics.nfe_forward), int(metrics.num_skipped)) == (7, 0)


def test_step_traces_once_over_ten_batches():
    traces = []
    state = make_state(SGD, on_trace=lambda: traces.append(1))
    counts = []
    for seed in range(10):
        state, _ = train_step(state, *make_data(8, seed), optimiser=SGD)
        counts.append(len(traces))
    assert counts[0] > 0 and counts == counts[:1] * 10


@pytest.mark.parametrize("value", [255, 254, 253], ids=["solve", "loss", "gradient"])
def test_failed_step_changes_nothing_but_the_counters(value):
    images, labels = make_data(8)
    start, _ = train_step(make_state(SGD), images, labels, optimiser=SGD)
    state, metrics = train_step(start, flag(images, value), labels, optimiser=SGD)
    assert same_bits((state.model, state.opt_state), (start.model, start.opt_state))
    assert (int(state.step), int(state.skipped_in_a_row)) == (2, 1)
    assert (int(metrics.num_skipped), int(metrics.total)) == (1, 0)
    assert int(metrics.num_failures) == (1 if value == 255 else 0)
    state, metrics = train_step(state, images, labels, optimiser=SGD)
    assert int(state.skipped_in_a_row) == int(metrics.num_skipped) == 0
    assert not same_bits(state.model, start.model)


def test_step_to_infinite_parameters_is_skipped():
    images, labels = make_data(8)
    optimiser = optax.sgd(float("inf"))
    start = make_state(optimiser)
    state, metrics = train_step(start, images, labels, optimiser=optimiser)
    assert same_bits(state.model, start.model)
    assert int(metrics.num_skipped) == 1


def test_step_with_failed_backward_solve_is_skipped():
    class Decay(eqx.Module):
        weight: jax.Array

        def with_stats(self, images):
            def field(t, y, weight):
                return y @ weight

            y0 = images.astype(jnp.float32).mean(axis=(2, 3))[:, :10] / 255
            # Forwards in one long step; backwards the bound on the steps is too tight.
            solution = odeint(
                field,
                y0,
                jnp.asarray([0.0, 1.0]),
                self.weight,
                adjoint=Backsolve(rtol=1e-6, atol=1e-6, max_steps=2),
                rtol=10.0,
                atol=10.0,
                throw=False,
            )
            return solution.ys[-1], solution.stats

    images, labels = make_data(8)
    start = TrainState.create(Decay(jnp.eye(10)), SGD)
    state, metrics = train_step(start, images, labels, optimiser=SGD)
    assert same_bits(state.model, start.model)
    assert (int(metrics.num_skipped), int(metrics.num_failures)) == (1, 1)


def test_step_is_skipped_where_only_the_count_tells_of_a_failed_backward_solve(
    monkeypatch,
):
    def failing(loss_fn, **options):
        def call(params):
            out, grads, stats = value_and_grad_with_stats(loss_fn, **options)(params)
            return (
                out,
                grads,
                dataclasses.replace(stats, num_other_failures=jnp.asarray(1.0)),
            )

        return call

    monkeypatch.setattr("jaxode.training.gradient.value_and_grad_with_stats", failing)
    # An optimiser of its own, so that the step is traced here.
    optimiser = optax.sgd(0.25)
    start = make_state(optimiser)
    state, metrics = train_step(start, *make_data(8), optimiser=optimiser)
    assert same_bits(state.model, start.model)
    assert (int(metrics.num_skipped), int(metrics.num_failures)) == (1, 1)


def test_schedule_of_optax_works_under_strict_promotion():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)
    optimiser = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(schedule))
    state = make_state(optimiser)
    state, metrics = train_step(state, *make_data(8), optimiser=optimiser)
    assert int(metrics.num_skipped) == 0


def test_layers_with_a_block_among_them_are_a_classifier():
    keys = jax.random.split(jax.random.key(3), 2)
    field = eqx.nn.MLP(28, 28, 8, 1, activation=jnp.tanh, key=keys[0])
    layers = [
        eqx.nn.Lambda(lambda image: image.astype(jnp.float32).mean(axis=(1, 2)) / 255),
        jaxode.nn.ODEBlock(TimeFree(field), rtol=0.1, atol=0.1, adjoint="backsolve"),
        eqx.nn.Linear(28, 10, key=keys[1]),
    ]
    start = TrainState.create(eqx.filter_vmap(eqx.nn.Sequential(layers)), SGD)
    state, metrics = train_step(start, *make_data(8), optimiser=SGD)
    assert not same_bits(state.model, start.model)
    # It has no forward statistics; those of the way back come by themselves.
    assert int(metrics.nfe_forward) == 0 < int(metrics.nfe_backward)
    assert (int(metrics.total), int(metrics.num_skipped)) == (8, 0)


# Many steps


def run_rows(images, labels, cuts, count=6, order=None, **options):
    state = make_state(SGD)
    metrics = Metrics.zeros()
    if order is None:
        order = epoch_order(jax.random.key(1), 1, len(labels), len(labels) // count)
    data = TrainData(images, labels, order, rows(0, 0), jax.random.key(2))
    for first, last in itertools.pairwise(cuts):
        data = dataclasses.replace(data, rows=rows(first, last))
        state, metrics = train_steps(data, state, metrics, optimiser=SGD, **options)
    return state, metrics


def test_steps_in_one_call_equal_single_steps():
    images, labels = make_data(60)
    state, metrics = run_rows(images, labels, [0, 6])
    single, sums = make_state(SGD), Metrics.zeros()
    for batch in epoch_order(jax.random.key(1), 1, 60, 10):
        single, step = train_step(single, images[batch], labels[batch], optimiser=SGD)
        sums = sums.merge(step)
    # Observed equal; the compiler may round the two programs differently.
    np.testing.assert_allclose(state.model.weight, single.model.weight, rtol=1e-5)
    np.testing.assert_allclose(metrics.loss, sums.loss, rtol=1e-5)
    assert int(metrics.correct) == int(sums.correct)
    assert (int(state.step), int(metrics.total)) == (6, 60)


@pytest.mark.parametrize("cuts", [[0, 1, 2, 3, 4, 5, 6], [0, 4, 6]])
def test_cutting_an_epoch_changes_no_bit(cuts):
    images, labels = make_data(60)
    whole = run_rows(images, labels, [0, 6], max_shift=2)
    assert same_bits(run_rows(images, labels, cuts, max_shift=2), whole)


@pytest.mark.parametrize("augmentation", ["max_shift", "crop"])
def test_augmentation_is_decided_by_the_step(augmentation: Any):
    images, labels = make_data(10)
    order = jnp.zeros((2, 10), jnp.int32) + jnp.arange(10, dtype=jnp.int32)[None]
    # The same batch and, at a learning rate of zero, the same weights at both steps.
    still = optax.sgd(0.0)
    data = TrainData(images, labels, order, rows(0, 1), jax.random.key(2))
    moved: dict[str, Any] = {augmentation: 2}
    losses = []
    for step in (0, 1, 1):
        state = make_state(still)
        state = dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))
        _, metrics = train_steps(data, state, Metrics.zeros(), optimiser=still, **moved)
        losses.append(float(metrics.loss_sum))
    assert losses[0] != losses[1] == losses[2]


def bad_images(count: int, is_bad: Callable[[int], bool]) -> tuple:
    """One batch of four for each row; `is_bad` says which of them fail."""
    images, labels = make_data(4 * count)
    for row in filter(is_bad, range(count)):
        images = images.at[4 * row, 0, 0, 0].set(254)
    order = jnp.arange(4 * count, dtype=jnp.int32).reshape(count, 4)
    return images, labels, order


def test_ten_skipped_in_a_row_end_the_call_there():
    images, labels, order = bad_images(30, lambda row: row >= 5)
    state, metrics = run_rows(images, labels, [0, 30], order=order)
    assert MAX_SKIPPED_IN_A_ROW == 10
    assert int(state.step) == 15
    assert int(state.skipped_in_a_row) == int(metrics.num_skipped) == 10
    # What went well before is kept.
    good, _ = run_rows(images, labels, [0, 5], order=order)
    assert same_bits(state.model, good.model)


def test_nine_skipped_in_a_row_do_not_end_the_call():
    images, labels, order = bad_images(30, lambda row: row % 10 != 9)
    state, metrics = run_rows(images, labels, [0, 30], order=order)
    assert (int(state.step), int(metrics.num_skipped)) == (30, 27)
    assert (int(state.skipped_in_a_row), int(metrics.total)) == (0, 3 * 4)


def test_row_of_skipped_steps_is_counted_across_calls():
    images, labels, order = bad_images(30, lambda row: True)
    state, _ = run_rows(images, labels, [0, 4, 8, 12], order=order)
    assert int(state.step) == int(state.skipped_in_a_row) == 10


# Evaluation


@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 7), (103, 10), (103, 103), (10_000, 512)]
)
def test_every_image_is_scored_exactly_once(count, batch_size):
    images, labels = make_data(count)
    model = make_state(SGD).model
    metrics = evaluate(model, images, labels, batch_size=batch_size)
    x = np.asarray(images, np.float64).mean(axis=(2, 3)) / 255
    logits = x @ np.asarray(model.weight, np.float64)
    losses = (
        np.log(np.exp(logits).sum(axis=1))
        - logits[np.arange(count), np.asarray(labels)]
    )
    assert int(metrics.total) == count
    assert int(metrics.batches) == -(-count // batch_size)
    assert int(metrics.correct) == (logits.argmax(axis=1) == np.asarray(labels)).sum()
    # Observed 4e-7 for 10,000 images in float32.
    np.testing.assert_allclose(metrics.loss_sum, losses.sum(), rtol=5e-6)
