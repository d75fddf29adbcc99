"""Data sets of which only what is asked for is read: larger than a host's memory."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from .dataset import DataError, Dataset, Split


Indices = Int[np.ndarray, " image"]


class DamagedError(DataError):
    """Files that were prepared, and cannot be read any more."""


@runtime_checkable
class Records(Protocol):
    """A split whose images are read when they are asked for, in any order.

    Anything with these two methods will do; several threads call `read` at once.

    Examples:
        >>> import jaxode
        >>> test = jaxode.datasets.load_records("digits").test
        >>> isinstance(test, jaxode.datasets.Records), len(test)
        (True, 360)
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, indices: Indices) -> Split:
        """Images and labels at these places, in this order."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayRecords:
    """Records in arrays, which may be memory maps of files.

    Attributes:
        split: The arrays.

    Examples:
        >>> import jaxode
        >>> import numpy as np
        >>> data = jaxode.datasets.load("digits")
        >>> own = jaxode.datasets.ArrayRecords(data.train)
        >>> own.read(np.array([5, 0])).images.shape
        (2, 28, 28, 1)
    """

    split: Split

    def __len__(self) -> int:
        return len(self.split.labels)

    def read(self, indices: Indices) -> Split:
        """See `Records`."""
        images, labels = self.split
        return Split(np.asarray(images[indices]), np.asarray(labels[indices]))


@dataclass(frozen=True, eq=False)
class TfdsRecords:
    """Records of tensorflow-datasets' random-access source.

    Attributes:
        source: The source.
        path: Where its files are.
    """

    source: Any
    path: Any

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Indices) -> Split:
        """See `Records`.

        Raises:
            DataError: if a file is damaged or has gone since it was prepared.
        """
        try:
            # One call for all is three times as fast as one call for each.
            found = self.source.__getitems__(indices.tolist())
        # What a damaged file raises depends on the byte.
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise DamagedError(
                f"{self.path} cannot be read any more ({first[:200]}); delete it, and "
                "it is prepared again."
            ) from error
        images = np.stack([example["image"] for example in found])
        labels = np.array([example["label"] for example in found], dtype=np.int32)
        return Split(images, labels)


@dataclass(frozen=True, eq=False)
class RecordSet:
    """What `Dataset` is, of records.

    Attributes:
        name: `"mnist"`, `"fashion_mnist"`, `"kmnist"` or `"digits"`; never `"auto"`.
        train: The training split.
        test: The test split.
        num_classes: Number of classes; labels are below it.

    Examples:
        >>> import jaxode
        >>> records = jaxode.datasets.load_records("digits")
        >>> isinstance(records, jaxode.datasets.RecordSet), records.num_classes
        (True, 10)
    """

    name: str
    train: Records
    test: Records
    num_classes: int = 10


def in_memory(dataset: Dataset) -> RecordSet:
    """Records in the arrays of a data set."""
    return RecordSet(
        dataset.name, ArrayRecords(dataset.train), ArrayRecords(dataset.test)
    )
