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
from classifier.setup import learning_rate
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


def test_one_device_is_not_sharded():
    assert jax.device_count() == 1
    assert batch_sharding(Config()) is None


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(InputError, match="--devices 3: this process has 1 .*count=3"):
        batch_sharding(Config(devices=3))
