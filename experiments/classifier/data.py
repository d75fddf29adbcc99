"""The images of a run, on its devices."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        if config.batch_size > len(train.labels):
            raise InputError(
                f"--batch-size must be at most {len(train.labels)}, the images of "
                f"{dataset.name} to train on; got {config.batch_size}."
            )
        sharding = batch_sharding(config, len(scored.labels)) if all_devices else None
        return cls(
            name=dataset.name,
            train=Images(*place(tuple(train), sharding)),
            scored=Images(*place(tuple(scored), sharding)),
            scored_on=scored_on,
            steps_per_epoch=math.ceil(len(train.labels) / config.batch_size),
            sharding=sharding,
        )


def fingerprint(dataset: jaxode.datasets.Dataset) -> str:
    """A hash of all images and labels, which tells one data set from another."""
    sha256 = hashlib.sha256(dataset.name.encode())
    for split in dataset:
        for array in split:
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def require_same(
    dataset: jaxode.datasets.Dataset, about: dict[str, Any], folder: Path
) -> str:
    """The fingerprint of a data set, which must be the one a run was trained on.

    Args:
        dataset: That is at hand.
        about: The content of the run's `config.json`; empty for a new run.
        folder: Of the run.

    Raises:
        InputError: if it is another one.
    """
    found = fingerprint(dataset)
    # Runs of earlier versions have none.
    if about.get("data_sha256") not in (None, found):
        raise InputError(
            f"{folder} was trained on another {dataset.name}: the images or labels "
            "here are not the same. Clear the data cache, name the folder of the "
            "original files with --data-dir, or start a new run."
        )
    return found


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
