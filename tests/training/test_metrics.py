"""The loss and the sums: NumPy in double precision is the truth."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxode._solve.stats import SolveCounts, SolveStats
from jaxode.training.metrics import add_backward, as_count, loss_and_metrics, Metrics


class Constant(eqx.Module):
    """A "classifier" whose logits are the first ten pixels of each image."""

    nfe: int | None = eqx.field(static=True, default=14)
    success: bool | tuple[bool, ...] = eqx.field(static=True, default=True)

    def with_stats(self, images):
        success = jnp.asarray(self.success)
        count = jnp.ones(success.shape, jnp.int32)
        stats = SolveStats(
            nfe=None if self.nfe is None else self.nfe * count,
            num_steps=3 * count,
            num_accepted_steps=2 * count,
            num_rejected_steps=count,
            last_step=0.5 * success.astype(jnp.float32),
            success=success,
        )
        return images.reshape(len(images), -1)[:, :10], stats


def make_batch(count: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 28, 28, 1)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 10, count, np.int32))


def sums_by_numpy(images: jax.Array, labels: jax.Array) -> tuple[float, int]:
    logits = np.asarray(images, np.float64).reshape(len(labels), -1)[:, :10]
    log_sum = np.log(np.exp(logits).sum(axis=1))
    losses = log_sum - logits[np.arange(len(labels)), np.asarray(labels)]
    return losses.sum(), int((logits.argmax(axis=1) == np.asarray(labels)).sum())


@pytest.mark.parametrize("sizes", [[15] * 4, [8] * 7 + [4], [60]])
def test_metrics_do_not_depend_on_batch_size(sizes):
    images, labels = make_batch(60)
    loss_sum, correct = sums_by_numpy(images, labels)
    metrics, start = Metrics.zeros(), 0
    for size in sizes:
        part = slice(start, start + size)
        _, batch = loss_and_metrics(Constant(), images[part], labels[part])
        metrics, start = metrics.merge(batch), start + size
    assert int(metrics.total) == 60
    assert int(metrics.correct) == correct
    assert int(metrics.batches) == len(sizes)
    # Observed 1e-7, the rounding of float32; 1e-6 leaves a factor of ten.
    np.testing.assert_allclose(metrics.loss_sum, loss_sum, rtol=1e-6)
    np.testing.assert_allclose(metrics.loss, loss_sum / 60, rtol=1e-6)
    np.testing.assert_allclose(metrics.accuracy, correct / 60, rtol=1e-6)


def test_masked_images_count_nowhere():
    images, labels = make_batch(20)
    mask = jnp.arange(20) % 3 != 0
    kept = np.flatnonzero(mask)
    loss_sum, correct = sums_by_numpy(images[kept], labels[kept])
    # What is masked out must not get in by way of 0 * NaN either.
    images = jnp.where(mask[:, None, None, None], images, jnp.nan)
    loss, metrics = loss_and_metrics(Constant(), images, labels, mask)
    assert int(metrics.total) == len(kept)
    assert int(metrics.correct) == correct
    np.testing.assert_allclose(metrics.loss_sum, loss_sum, rtol=1e-6)
    np.testing.assert_allclose(loss, loss_sum / len(kept), rtol=1e-6)


def test_image_without_finite_logits_is_not_correct():
    images, labels = make_batch(5)
    # argmax of NaN is 0, so label 0 is the one that could slip through.
    _, metrics = loss_and_metrics(
        Constant(), jnp.full_like(images, jnp.nan), jnp.zeros_like(labels)
    )
    assert (int(metrics.correct), int(metrics.total)) == (0, 5)


@pytest.mark.parametrize("success", [False, (False,) * 60])
def test_image_of_a_failed_solve_is_not_correct(success):
    images, labels = make_batch(60)
    assert sums_by_numpy(images, labels)[1] > 0
    _, metrics = loss_and_metrics(Constant(success=success), images, labels)
    assert int(metrics.correct) == 0
    assert int(metrics.num_failures) == np.size(success)


def test_counts_of_the_solve_are_taken_over():
    _, metrics = loss_and_metrics(Constant(), *make_batch(4))
    assert (int(metrics.nfe_forward), int(metrics.num_rejected_steps)) == (14, 1)
    assert int(metrics.num_failures) == 0


def test_calls_of_a_batch_with_steps_of_its_own_are_the_largest():
    _, metrics = loss_and_metrics(Constant(success=(True,) * 4), *make_batch(4))
    assert (int(metrics.nfe_forward), int(metrics.num_rejected_steps)) == (14, 4)


def test_solver_that_hides_its_calls_counts_none():
    _, metrics = loss_and_metrics(Constant(nfe=None), *make_batch(4))
    assert int(metrics.nfe_forward) == 0


def test_classifier_without_statistics_counts_none():
    images, labels = make_batch(6)
    model = lambda images: Constant().with_stats(images)[0]
    _, metrics = loss_and_metrics(model, images, labels)
    _, with_stats = loss_and_metrics(Constant(), images, labels)
    assert int(metrics.nfe_forward) == int(metrics.num_rejected_steps) == 0
    same = ("loss_sum", "correct", "total", "batches", "num_failures")
    for name in same:
        np.testing.assert_array_equal(getattr(metrics, name), getattr(with_stats, name))


def test_zeros_are_neutral():
    _, metrics = loss_and_metrics(Constant(), *make_batch(4))
    assert eqx.tree_equal(Metrics.zeros().merge(metrics), metrics)


def test_float_count_is_rounded_not_truncated():
    # A sum of counts that came through a cotangent may be a hair below the integer.
    assert int(as_count(jnp.asarray(20.999998))) == 21


@pytest.mark.parametrize("is_applied", [True, False])
def test_skipped_step_keeps_counts_and_drops_loss(is_applied):
    _, batch = loss_and_metrics(Constant(), *make_batch(4))
    batch = dataclasses.replace(batch, loss_sum=jnp.asarray(jnp.inf))
    backward = dataclasses.replace(
        SolveCounts.zeros(),
        nfe=jnp.asarray(13.0),
        num_rejected_steps=jnp.asarray(2.0),
        num_underflow=jnp.asarray(1.0),
        reconstruction_error=jnp.asarray(jnp.inf),
    )
    metrics = add_backward(batch, backward, jnp.asarray(is_applied))
    counts = (metrics.nfe_forward, metrics.nfe_backward, metrics.num_rejected_steps)
    assert tuple(map(int, counts)) == (14, 13, 1 + 2)
    assert int(metrics.num_failures) == 1
    assert int(metrics.num_skipped) == int(not is_applied)
    assert int(metrics.total) == (4 if is_applied else 0)
    assert bool(jnp.isfinite(metrics.loss_sum)) != is_applied
    assert bool(jnp.isfinite(metrics.reconstruction_error_sum)) != is_applied
