"""The devices of a run, in one process or several, and what each is fed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from classifier.config import Config
from console.command_line import InputError
from jaxode.training import batch_columns, TestBatches, TrainBatches


def choose_devices(config: Config) -> list[Any]:
    """The devices of the run, those of each process next to each other.

    Raises:
        InputError: if more are asked for than a process has.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if config.devices is None:
        return devices
    num_local = jax.local_device_count()
    if config.devices > num_local:
        platform = devices[0].platform
        more = (
            " XLA_FLAGS is set, so it decides how many a CPU is: unset it, or add "
            f"--xla_force_host_platform_device_count={config.devices}."
            if platform == "cpu"
            else ""
        )
        raise InputError(
            f"--devices {config.devices}: this process has {num_local} ({platform})."
            + more
        )
    of = lambda process: [d for d in devices if d.process_index == process]
    return [
        device
        for process in range(jax.process_count())
        for device in of(process)[: config.devices]
    ]


def batch_sharding(config: Config) -> NamedSharding | None:
    """Divides batches over the devices of the run; `None` where there is one."""
    devices = choose_devices(config)
    if len(devices) == 1:
        return None
    return NamedSharding(Mesh(np.array(devices), "batch"), PartitionSpec("batch"))


def place(tree: Any, sharding: NamedSharding | None) -> Any:
    """Puts a whole copy of every array on every device of the run."""
    if sharding is None:
        return jax.device_put(tree)
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, whole)

    def put(x: Any) -> Any:
        if not hasattr(x, "dtype"):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        x = np.asarray(x)
        return jax.make_array_from_process_local_data(whole, x, x.shape)

    return jax.tree.map(put, tree)


def train_batches(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    key: Any,
    sharding: NamedSharding,
    accumulate: int = 1,
) -> TrainBatches:
    """The batches of an epoch, of which each process puts in its own part."""
    feed = Feed(sharding, order.shape[1], accumulate)
    mine = order[:, feed.columns]
    return TrainBatches(
        images=feed(images[mine]),
        labels=feed(labels[mine]),
        rows=place(np.zeros(2, np.int32), sharding),
        key=place(key, sharding),
        samples=order.shape[1],
    )


def test_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, sharding: NamedSharding
) -> TestBatches:
    """The batches to score, in the same way; the last one is filled up."""
    num_images = len(labels)
    num_batches = -(-num_images // batch_size)
    feed = Feed(sharding, batch_size)
    order = np.arange(num_batches * batch_size).reshape(num_batches, batch_size)
    mine = order[:, feed.columns]
    return TestBatches(
        images=feed(images[mine % num_images]),
        labels=feed(labels[mine % num_images]),
        counts=feed(mine < num_images),
        samples=batch_size,
    )


class Feed:
    """Puts this process's part of stacked batches onto its devices.

    Attributes:
        sharding: How batches are divided; `None` for one device.
        batch_size: Images of a batch.
        columns: Which images of a batch are this process's.
    """

    def __init__(
        self, sharding: NamedSharding | None, batch_size: int, accumulate: int = 1
    ):
        self.sharding = sharding
        self.batch_size = batch_size
        if sharding is None:
            self.columns = np.arange(batch_size)
            return
        devices = np.asarray(sharding.mesh.devices)
        columns = batch_columns(batch_size, devices.size, accumulate)
        columns = columns.reshape(devices.size, -1)
        mine = [d.process_index == jax.process_index() for d in devices.flat]
        self.columns = columns[np.array(mine)].ravel()
        self._num_rows = columns.size
        self._divided = NamedSharding(sharding.mesh, PartitionSpec(None, "batch"))

    def __call__(self, mine: np.ndarray) -> jax.Array:
        if self.sharding is None:
            return jnp.asarray(mine)
        shape = (mine.shape[0], self._num_rows, *mine.shape[2:])
        return jax.make_array_from_process_local_data(self._divided, mine, shape)
