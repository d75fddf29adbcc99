"""Whether the images at hand are those that a run was trained on."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import jaxode
from console.command_line import InputError


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
