"""What training steps and evaluations read: whole data sets, or batches of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int, Key, Num

from .division import Division
from .layout import Layout


class TrainData(eqx.Module):
    """What the steps of one epoch read and never write.

    Attributes:
        images: The whole training set, as the model takes it.
        labels: Class of each image.
        order: Which images make up each batch of the epoch (`epoch_order`).
        rows: The first row of `order` to train on, and one past the last.
        key: Source of the augmentation. A step folds in its own number.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> key, rows = jax.random.key(0), jnp.array([0, 2])
        >>> order = jaxode.training.epoch_order(key, 0, num_images=4, batch_size=2)
        >>> images, labels = jnp.ones((4, 28, 28, 1)), jnp.arange(4)
        >>> jaxode.training.TrainData(images, labels, order, rows, key).order.shape
        (2, 2)
    """

    images: Num[Array, "images height width 1"]
    labels: Int[Array, " images"]
    order: Int[Array, "batches batch"]
    rows: Int[Array, "2"]
    key: Key[Array, ""]

    @property
    def samples(self) -> int:
        """Images of a batch."""
        return self.order.shape[1]

    def divided(self, part: Division) -> tuple["TrainData", "TrainData"]:
        """Itself, and how its arrays are spread: only the order is divided."""
        order = self.order[:, jnp.asarray(part.columns)]
        everywhere = jax.tree.map(lambda _: PartitionSpec(), self)
        specs = eqx.tree_at(lambda data: data.order, everywhere, part.spec(1))
        return eqx.tree_at(lambda data: data.order, self, order), specs

    def batch(self, index: Int[Array, ""]) -> tuple[Array, Array]:
        """Images and labels of a row."""
        batch = jax.lax.dynamic_index_in_dim(self.order, index, keepdims=False)
        return self.images[batch], self.labels[batch]


class TrainBatches(eqx.Module):
    """The same, batch by batch: for data that no device, or no process, has whole.

    The batch axis is divided over the devices, and filled up where it does not divide
    (`batch_columns`).

    Attributes:
        images: The batches of an epoch, or a stretch of them.
        labels: Class of each image.
        rows: The first batch to train on, and one past the last.
        key: Source of the augmentation.
        samples: Images of a batch that count, the first so many.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> images, labels = jnp.ones((2, 4, 28, 28, 1)), jnp.zeros((2, 4), int)
        >>> rows, key = jnp.array([0, 2]), jax.random.key(0)
        >>> jaxode.training.TrainBatches(images, labels, rows, key, 4).samples
        4
    """

    images: Num[Array, "batches row height width 1"]
    labels: Int[Array, "batches row"]
    rows: Int[Array, "2"]
    key: Key[Array, ""]
    samples: int = eqx.field(static=True)

    def divided(self, part: Division) -> tuple["TrainBatches", "TrainBatches"]:
        """Itself, and how its arrays are spread."""
        where = lambda data: (data.images, data.labels)
        everywhere = jax.tree.map(lambda _: PartitionSpec(), self)
        return self, eqx.tree_at(where, everywhere, (part.spec(1), part.spec(1)))

    def batch(self, index: Int[Array, ""]) -> tuple[Array, Array]:
        """Images and labels of a batch."""
        row = lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False)
        return row(self.images), row(self.labels)


def batch_columns(batch_size: int, num_devices: int, accumulate: int = 1) -> np.ndarray:
    """Which image of a batch each row of the filled-up batch is, in order.

    There are as many rows as divide evenly over the devices; device `i` has the `i`-th
    part of them, and in it, one after the other, its rows of each of the pieces that
    `train_steps(..., accumulate=...)` takes a batch in.

    Examples:
        >>> import jaxode
        >>> len(jaxode.training.batch_columns(6, 4))  # two for each device
        8
    """
    return Layout(batch_size, num_devices, accumulate).columns


class TestBatches(eqx.Module):
    """Images to score, batch by batch, as `TrainBatches` has those to train on.

    Attributes:
        images: The batches.
        labels: Class of each image.
        counts: Which images are scored. The others take part in the solve at most.
        samples: Images of a batch that take part in the solve, the first so many.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> images, labels = jnp.ones((2, 4, 28, 28, 1)), jnp.zeros((2, 4), int)
        >>> counts = jnp.ones((2, 4), bool)
        >>> jaxode.training.TestBatches(images, labels, counts, samples=4).samples
        4
    """

    __test__ = False  # no test of pytest's

    images: Num[Array, "batches row height width 1"]
    labels: Int[Array, "batches row"]
    counts: Bool[Array, "batches row"]
    samples: int = eqx.field(static=True)
