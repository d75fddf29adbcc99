"""From settings to what a run works with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode
from classifier.config import Config
from classifier.data import split_data
from classifier.devices import batch_sharding
from classifier.setup import build_optimiser, learning_rate
from console.command_line import InputError


def test_images_that_are_not_there_are_refused():
    images = np.zeros((10, 28, 28, 1), np.uint8)
    split = jaxode.datasets.Split(images, np.zeros(10, np.int32))
    dataset = jaxode.datasets.Dataset("digits", split, split)
    with pytest.raises(InputError, match="--train-size must be at most 10, the train"):
        split_data(Config(train_size=11), dataset)
    with pytest.raises(InputError, match="--holdout must leave some of the 10 train"):
        split_data(Config(holdout=10), dataset)


def test_held_out_images_are_scored_and_not_trained_on():
    labels = np.arange(10, dtype=np.int32)
    images = np.zeros((10, 28, 28, 1), np.uint8)
    train, test = (
        jaxode.datasets.Split(images, labels),
        jaxode.datasets.Split(images[:3], labels[:3]),
    )
    dataset = jaxode.datasets.Dataset("digits", train, test)
    config = Config(holdout=4, train_size=5)
    trained, scored, name = split_data(config, dataset)
    assert (list(trained.labels), list(scored.labels)) == (
        [0, 1, 2, 3, 4],
        [6, 7, 8, 9],
    )
    assert name == "held-out"


def test_learning_rate_rises_and_comes_down_whatever_the_epochs():
    config = Config(lr=0.1, warmup_epochs=1, decay_epochs=4, epochs=1)
    rate = learning_rate(config, steps_per_epoch=10)
    rates = np.array([float(rate(jnp.asarray(step))) for step in range(60)])
    assert rates[0] > 0 and rates.argmax() == 10
    np.testing.assert_allclose(rates.max(), 0.1, rtol=1e-6)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:40]) < 0).all()
    # Halfway along the cosine: the mean of both ends.
    np.testing.assert_allclose(rates[25], 0.1 * (1 + 0.01) / 2, rtol=1e-5)
    np.testing.assert_allclose(rates[40:], 0.001, rtol=1e-5)
    longer = learning_rate(dataclasses.replace(config, epochs=9), 10)
    assert [float(longer(jnp.asarray(step))) for step in range(60)] == list(rates)


def test_linear_schedule_is_a_line_to_a_hundredth():
    config = Config(lr=0.1, schedule="linear", warmup_epochs=1, decay_epochs=5)
    rate = learning_rate(config, steps_per_epoch=10)
    rates = [float(rate(jnp.asarray(step))) for step in (10, 20, 40, 50, 99)]
    expected = [0.1 * (0.01 + 0.99 * left) for left in (1, 0.75, 0.25, 0, 0)]
    # Observed 5e-8.
    np.testing.assert_allclose(rates, expected, rtol=2e-7)


def test_adam_takes_the_steps_of_its_paper():
    bare = Config(clip_norm=0.0, speed_decay=0.0, warmup_epochs=0.0, decay_epochs=0.0)
    config = dataclasses.replace(
        bare, optimiser="adam", lr=0.1, momentum=0.8, nesterov=False
    )
    optimiser = build_optimiser(config, steps_per_epoch=10)
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=3), jnp.float32)
    x, m, v = np.array(weights, np.float64), np.zeros(3), np.zeros(3)
    state = optimiser.init(weights)
    for t in range(1, 6):
        g = rng.normal(size=3).astype(np.float32)
        updates, state = optimiser.update(jnp.asarray(g), state, weights)
        weights = weights + jnp.asarray(updates)
        # Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g.astype(np.float64) ** 2
        x = x - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    # Observed 6e-8.
    np.testing.assert_allclose(weights, x, atol=3e-7)


def test_one_device_is_not_sharded():
    assert jax.device_count() == 1
    assert batch_sharding(Config()) is None


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(InputError, match="--devices 3: this process has 1 .*count=3"):
        batch_sharding(Config(devices=3))
