"""Training images that are read from the disk while others are trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

import jaxode
from classifier.devices import Feed, place
from jaxode.training import TrainBatches


STRETCH_BYTES = 2**22
"""Images that a process puts onto its devices together, at most, if a batch allows."""

AHEAD = 2
"""Stretches that are read while one is trained on."""

_IMAGE_BYTES = 28 * 28


@dataclass(frozen=True)
class Streamed:
    """Training images that nobody has in memory, in place of `Images`.

    Attributes:
        records: What they are read from.
        size: The first so many of them are trained on.
        accumulate: Pieces that a batch is taken in.
    """

    records: jaxode.datasets.Records
    size: int
    accumulate: int

    def __len__(self) -> int:
        return self.size

    def stretches(
        self, order: np.ndarray, first: int, key: Any, sharding: NamedSharding | None
    ) -> Iterator[tuple[int, TrainBatches]]:
        """The batches of an epoch from row `first` on, a stretch of rows at a time.

        Each process reads its own part of every batch, and of no other image.

        Args:
            order: The images of all batches of the epoch.
            first: The first batch that is wanted.
            key: Source of the augmentation.
            sharding: How batches are divided.

        Yields:
            The row that a stretch begins with, and its batches: always as many, so that
            one program takes all of them. The last ones are repeated where an epoch
            ends.
        """
        feed = Feed(sharding, order.shape[1], self.accumulate)
        mine = order[:, feed.columns]
        length = stretch_length(mine)
        starts = range(first, len(mine), length)
        parts = [mine[start : start + length] for start in starts]
        read = jaxode.datasets.stream(self.records, parts, ahead=AHEAD)
        for start, (images, labels) in zip(starts, read, strict=True):
            whole = np.minimum(np.arange(length), len(labels) - 1)
            yield start, self._batches(images[whole], labels[whole], feed, key)

    def example(
        self, order: np.ndarray, key: Any, sharding: NamedSharding | None
    ) -> TrainBatches:
        """Batches of the shape of a stretch, with nothing in them."""
        feed = Feed(sharding, order.shape[1], self.accumulate)
        shape = (stretch_length(order[:, feed.columns]), len(feed.columns))
        images = np.zeros((*shape, 28, 28, 1), np.uint8)
        return self._batches(images, np.zeros(shape, np.int32), feed, key)

    def _batches(
        self, images: np.ndarray, labels: np.ndarray, feed: Feed, key: Any
    ) -> TrainBatches:
        return TrainBatches(
            images=feed(images),
            labels=feed(labels),
            rows=place(jnp.zeros(2, jnp.int32), feed.sharding),
            key=place(key, feed.sharding),
            samples=feed.batch_size,
        )


def stretch_length(rows: np.ndarray) -> int:
    """Batches of a stretch, of which a process feeds so many rows of so many images."""
    num_batches, batch_size = rows.shape
    fit = STRETCH_BYTES // (batch_size * _IMAGE_BYTES)
    return min(num_batches, max(1, fit))
