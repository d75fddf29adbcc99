"""The images of a run, on its devices."""

import math
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

import jaxode
from classifier.config import Config
from console.command_line import InputError


@dataclass(frozen=True)
class Images:
    """One set of images with labels, on the devices."""

    images: UInt8[Array, "image 28 28 1"]
    labels: Int[Array, " image"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """What a run trains on and is scored on.

    Attributes:
        name: Of the data set.
        train: Images to train on.
        scored: Images to score.
        scored_on: What the latter are called.
        steps_per_epoch: Training steps in one epoch; the last one is filled up.
        sharding: How batches are spread over the devices.
    """

    name: str
    train: Images
    scored: Images
    scored_on: str
    steps_per_epoch: int
    sharding: NamedSharding | None

    @classmethod
    def of(
        cls,
        config: Config,
        dataset: jaxode.datasets.Dataset,
        all_devices: bool = True,
    ) -> "Data":
        """The images that the settings ask for, on one device or on all.

        Raises:
            InputError: if more images are asked for than there are.
        """
        train, scored, scored_on = split_data(config, dataset)
        sharding = batch_sharding(config, len(scored.labels)) if all_devices else None
        return cls(
            name=dataset.name,
            train=Images(*place(tuple(train), sharding)),
            scored=Images(*place(tuple(scored), sharding)),
            scored_on=scored_on,
            steps_per_epoch=math.ceil(len(train.labels) / config.batch_size),
            sharding=sharding,
        )


def eval_batch_size(config: Config, num_images: int) -> int:
    """Images per solve when scoring; a batch is never larger than the set."""
    return min(config.eval_batch_size, num_images)


def batch_sharding(config: Config, num_scored: int) -> NamedSharding | None:
    """Splits batches over all devices, or over as many as divide them evenly."""
    sizes = math.gcd(config.batch_size, eval_batch_size(config, num_scored))
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if sizes % n == 0)
    if count == 1:
        return None
    return NamedSharding(
        Mesh(np.array(devices[:count]), "batch"), PartitionSpec("batch")
    )


def place(tree, sharding: NamedSharding | None):
    """Puts a whole copy of every array on every device of the mesh."""
    if sharding is None:
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))


def split_data(
    config: Config, dataset: jaxode.datasets.Dataset
) -> tuple[jaxode.datasets.Split, jaxode.datasets.Split, str]:
    """Training images, images to score, and what the latter are called.

    Raises:
        InputError: if more images are asked for than there are.
    """
    train, scored, name = dataset.train, dataset.test, "test"
    available = len(train.labels)
    if config.holdout:
        if config.holdout >= available:
            raise InputError(
                f"--holdout must leave some of the {available} training images of "
                f"{dataset.name}; got {config.holdout}."
            )
        available -= config.holdout
        scored = jaxode.datasets.Split(
            train.images[available:], train.labels[available:]
        )
        name = "held-out"
    size = config.train_size or available
    if size > available:
        raise InputError(
            f"--train-size must be at most {available}, the training images of "
            f"{dataset.name} that there are; got {size}."
        )
    return jaxode.datasets.Split(train.images[:size], train.labels[:size]), scored, name
