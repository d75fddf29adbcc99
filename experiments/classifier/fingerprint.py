"""Whether the images at hand are those that a run was trained on."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jaxode
from console.command_line import InputError


_AT_ONCE = 5000


def fingerprint(dataset: jaxode.datasets.Dataset | jaxode.datasets.RecordSet) -> str:
    """A hash of all images and labels, which tells one data set from another.

    Records are read once from the first to the last for it.
    """
    sha256 = hashlib.sha256(dataset.name.encode())
    for split in (dataset.train, dataset.test):
        for array in _in_pieces(split):
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def _in_pieces(
    split: jaxode.datasets.Split | jaxode.datasets.Records,
) -> Iterator[np.ndarray]:
    """All images, then all labels."""
    if isinstance(split, jaxode.datasets.Split):
        yield from split
        return
    places = np.arange(len(split))
    pieces = [places[i : i + _AT_ONCE] for i in range(0, len(places), _AT_ONCE)]
    labels = []
    for piece in pieces:
        read = split.read(piece)
        labels.append(read.labels)
        yield read.images
    yield from labels


def require_same(
    dataset: jaxode.datasets.Dataset | jaxode.datasets.RecordSet,
    about: dict[str, Any],
    folder: Path,
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
