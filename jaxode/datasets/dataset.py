"""What a data set is: two splits of images and labels, and a name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8


Images = UInt8[np.ndarray, "image 28 28 1"]
Labels = Int32[np.ndarray, " image"]


class DataError(ValueError):
    """A data set cannot be had as it was asked for; the message says what to do.

    Examples:
        >>> import jaxode
        >>> try:
        ...     jaxode.datasets.load("mnits")
        ... except jaxode.datasets.DataError as error:
        ...     print("mnits" in str(error))
        True
    """


class Split(NamedTuple):
    """Images and their labels, in the order of the original files.

    Attributes:
        images: Grey levels, 0 is background. uint8, shape `(image, 28, 28, 1)`.
        labels: Class numbers, from 0. int32, shape `(image,)`.

    Examples:
        >>> import jaxode
        >>> data = jaxode.datasets.load("digits")
        >>> isinstance(data.test, jaxode.datasets.Split), data.test.images.shape
        (True, (360, 28, 28, 1))
    """

    images: Images
    labels: Labels


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, and the name of what they truly hold.

    Unpacks into its two splits:
    `(train_images, train_labels), (test_images, test_labels) = load()`.

    Attributes:
        name: `"mnist"`, `"fashion_mnist"`, `"kmnist"` or `"digits"`; never `"auto"`.
        train: The training split.
        test: The test split.
        num_classes: Number of classes; labels are below it.

    Examples:
        >>> import jaxode
        >>> data = jaxode.datasets.load("digits")
        >>> isinstance(data, jaxode.datasets.Dataset), data.name, data.num_classes
        (True, 'digits', 10)
    """

    name: str
    train: Split
    test: Split
    num_classes: int = 10

    @property
    def train_images(self) -> Images:
        return self.train.images

    @property
    def train_labels(self) -> Labels:
        return self.train.labels

    @property
    def test_images(self) -> Images:
        return self.test.images

    @property
    def test_labels(self) -> Labels:
        return self.test.labels

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.test))
