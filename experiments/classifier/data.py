"""The images of a run, on its devices."""

import math
from dataclasses import dataclass

import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, UInt8

import jaxode
from classifier.config import Config
from classifier.devices import batch_sharding, place, test_batches
from classifier.scoring import Scoring
from classifier.streaming import Streamed
from console.command_line import InputError
from jaxode.training import batch_columns


@dataclass(frozen=True)
class Images:
    """One set of images with labels: on the device or, for several, on the host."""

    images: UInt8[Array | np.ndarray, "image 28 28 1"]
    labels: Int[Array | np.ndarray, " image"]

    @classmethod
    def of(
        cls, split: jaxode.datasets.Split, sharding: NamedSharding | None
    ) -> "Images":
        """Those of a split."""
        return cls(*(place(tuple(split), None) if sharding is None else split))

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels as NumPy's arrays."""
        return np.asarray(self.images), np.asarray(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """What a run trains on and is scored on.

    Attributes:
        name: Of the data set.
        train: Images to train on, in memory or on the disk.
        scored: Images to score.
        scored_on: What the latter are called.
        steps_per_epoch: Training steps in one epoch; the last one is filled up.
        sharding: How batches are spread over the devices.
    """

    name: str
    train: Images | Streamed
    scored: Images
    scored_on: str
    steps_per_epoch: int
    sharding: NamedSharding | None

    @classmethod
    def of(
        cls,
        config: Config,
        dataset: jaxode.datasets.Dataset | jaxode.datasets.RecordSet,
        all_devices: bool = True,
    ) -> "Data":
        """The images that the settings ask for, on one device or on all.

        Raises:
            InputError: if more images are asked for than there are.
        """
        sharding = batch_sharding(config) if all_devices else None
        if isinstance(dataset, jaxode.datasets.RecordSet):
            train, scored, scored_on = split_records(config, dataset)
        else:
            split, scored, scored_on = split_data(config, dataset)
            train = Images.of(split, sharding)
        if config.batch_size > len(train):
            raise InputError(
                f"--batch-size must be at most {len(train)}, the images of "
                f"{dataset.name} to train on; got {config.batch_size}."
            )
        return cls(
            name=dataset.name,
            train=train,
            scored=Images.of(scored, sharding),
            scored_on=scored_on,
            steps_per_epoch=math.ceil(len(train) / config.batch_size),
            sharding=sharding,
        )


def describe_division(config: Config, data: Data) -> str:
    """What each device has to do, in a line."""
    assert data.sharding is not None
    count, pieces = data.sharding.mesh.size, config.accumulate
    rows = len(batch_columns(config.batch_size, count, pieces)) // count
    of_each = f"{config.batch_size} images on {count}, {rows} on each"
    if pieces > 1:
        of_each += f", in {pieces} pieces"
    if rows * count > config.batch_size:
        more = rows * count - config.batch_size
        of_each += f" ({more} {'row' if more == 1 else 'rows'} filled up)"
    if config.step_control == "device":
        of_each += "; each controls its own steps: another number trains otherwise"
    return of_each


def scoring(config: Config, scored: Images, sharding: NamedSharding | None) -> Scoring:
    """How images are scored under these settings."""
    batch_size = eval_batch_size(config, len(scored))
    if sharding is None:
        given = scored.images, scored.labels
        return Scoring(jaxode.training.evaluate, given, {"batch_size": batch_size})
    batches = test_batches(*scored.on_host(), batch_size, sharding)
    options = {"sharding": sharding, "joint": config.step_control == "batch"}
    return Scoring(jaxode.training.evaluate_batches, (batches,), options)


def eval_batch_size(config: Config, num_images: int) -> int:
    """Images per solve when scoring; a batch is never larger than the set."""
    return min(config.eval_batch_size, num_images)


def split_data(
    config: Config, dataset: jaxode.datasets.Dataset
) -> tuple[jaxode.datasets.Split, jaxode.datasets.Split, str]:
    """Training images, images to score, and what the latter are called.

    Raises:
        InputError: if more images are asked for than there are.
    """
    train = dataset.train
    size, held_out = _sizes(config, dataset.name, len(train.labels))
    chosen = jaxode.datasets.Split(train.images[:size], train.labels[:size])
    if held_out is None:
        return chosen, dataset.test, "test"
    scored = jaxode.datasets.Split(train.images[held_out], train.labels[held_out])
    return chosen, scored, "held-out"


def split_records(
    config: Config, dataset: jaxode.datasets.RecordSet
) -> tuple[Streamed, jaxode.datasets.Split, str]:
    """The same of records; the images to score are read.

    Raises:
        InputError: if more images are asked for than there are.
    """
    size, held_out = _sizes(config, dataset.name, len(dataset.train))
    train = Streamed(dataset.train, size, config.accumulate)
    if held_out is None:
        return train, dataset.test.read(np.arange(len(dataset.test))), "test"
    places = np.arange(held_out.start, len(dataset.train))
    return train, dataset.train.read(places), "held-out"


def _sizes(config: Config, name: str, available: int) -> tuple[int, slice | None]:
    """How many training images are trained on, and which are scored, if any."""
    held_out = None
    if config.holdout:
        if config.holdout >= available:
            raise InputError(
                f"--holdout must leave some of the {available} training images of "
                f"{name}; got {config.holdout}."
            )
        available -= config.holdout
        held_out = slice(available, None)
    size = config.train_size or available
    if size > available:
        raise InputError(
            f"--train-size must be at most {available}, the training images of "
            f"{name} that there are; got {size}."
        )
    return size, held_out
