"""Batches that are read while others are computed with, by Grain."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from .._optional import require
from .dataset import Split
from .records import Records


def stream(
    records: Records,
    order: Sequence[Int[np.ndarray, "..."]] | Int[np.ndarray, "..."],
    *,
    ahead: int = 2,
) -> Iterator[Split]:
    """Reads images in a given order, some of them ahead of their use.

        rows = np.asarray(jaxode.training.epoch_order(key, epoch, len(records), 64))
        for images, labels in jaxode.datasets.stream(records.train, rows[done:]):
            ...

    Nothing is drawn here, so the images are those that `order` takes from an array, and
    an epoch is gone on with in its middle by leaving out what is done. `ahead` elements
    and the one handed out last are in memory, and no others.

    Args:
        records: What to read from.
        order: For each element of the stream the places of its images, in an array of
            any shape: a batch, or several. An array of them is cut along its first
            axis. A process that needs a part of each batch passes its part.
        ahead: How many elements to read in the background, each by a thread, >= 1.

    Returns:
        For each element images `(*shape, 28, 28, 1)` and labels `shape`.

    Raises:
        ImportError: if Grain, of the extra `stream`, is missing.
        ValueError: if `ahead` is below 1.

    Examples:
        >>> import jaxode
        >>> import numpy as np
        >>> records = jaxode.datasets.load_records("digits")
        >>> order = np.arange(64).reshape(2, 32)  # two batches
        >>> batches = jaxode.datasets.stream(records.train, order)
        >>> [len(labels) for images, labels in batches]
        [32, 32]
    """
    if ahead < 1:
        raise ValueError(
            f"ahead={ahead} must be at least 1, the element that is read while another "
            "one is used."
        )
    grain = require("grain", "Streaming", "stream")

    def read(places: np.ndarray) -> Any:
        images, labels = records.read(np.ravel(places))
        shape = np.shape(places)
        return images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)

    elements = grain.MapDataset.source(order).map(read)
    options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    return _elements(iter(elements.to_iter_dataset(options)))


def _elements(iterator: Any) -> Iterator[Split]:
    try:
        for images, labels in iterator:
            yield Split(images, labels)
    finally:
        # Its threads, where the consumer leaves before the end.
        if hasattr(iterator, "close"):
            iterator.close()
