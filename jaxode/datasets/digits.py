"""The digits that come with scikit-learn, in MNIST's size."""

import numpy as np

from .._optional import require
from .dataset import Dataset, Split


def load_digits() -> Dataset:
    """Reads the 1,797 handwritten digits that come inside scikit-learn.

    Real 8x8 digits in 17 grey levels, each pixel drawn as 3x3 and framed by two pixels
    of background, which makes 28x28; levels 0 to 16 become 0 to 255.
    Accuracies on them say nothing about MNIST.

    The split is a rule, not a draw: with the digits sorted by class, and in file order
    within a class, every fifth is a test image. That gives 1,437 and 360 images, and
    every class is split 4 to 1. Both parts hold digits of the same 13 writers.
    """
    digits = require("sklearn.datasets").load_digits()
    enlarged = np.kron(digits.images, np.ones((1, 3, 3)))
    padded = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))
    images = np.rint(padded * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)

    is_test = np.zeros(len(labels), dtype=bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    train = Split(images[~is_test], labels[~is_test])
    return Dataset("digits", train, Split(images[is_test], labels[is_test]))
