"""A batch divided over the devices of a mesh: what each of them computes.

A step runs inside `jax.shard_map`, so every device sees its own rows only and nothing
is left to the compiler's choice: the state of a solve is never gathered. What devices
tell each other is a number for each error norm, and the sums at the end of a step, in
one exchange.

Where the batch does not divide evenly it is filled up with rows that come again. They
take no part in norms, sums and gradients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PyTree

from .._steps.pooled import PooledNorm, summed_at_once
from .layout import Layout, Places


class Division(NamedTuple):
    """How a batch is divided.

    Attributes:
        sharding: Over which axis of which mesh.
        samples: Rows of a batch that count.
        joint: Whether the devices take the steps of a solve together.
        accumulate: Pieces that a batch is solved in, one after the other.
    """

    sharding: NamedSharding
    samples: int
    joint: bool
    accumulate: int = 1

    @property
    def axis(self) -> str:
        """The axis of the mesh."""
        return self.sharding.spec[0]

    @property
    def num_parts(self) -> int:
        """Devices along it."""
        return self.sharding.mesh.shape[self.axis]

    @property
    def layout(self) -> Layout:
        """Where the images go."""
        return Layout(self.samples, self.num_parts, self.accumulate)

    @property
    def columns(self) -> np.ndarray:
        """Which of the batch each row of the filled-up batch is."""
        return self.layout.columns

    def spec(self, dim: int) -> PartitionSpec:
        """Of arrays whose axis `dim` is divided."""
        return PartitionSpec(*[None] * dim, self.axis)

    def places(self) -> Places:
        """Where the rows of this device are, piece by piece."""
        return self.layout.places(lax.axis_index(self.axis).astype(jnp.int32))

    def counts(self) -> Bool[Array, " row"]:
        """Which rows of this device count."""
        return jnp.ravel(self.places().counts)

    def own(self, whole: Array, dim: int) -> Array:
        """The rows of this device of an array that every device has whole."""
        filled = jnp.take(whole, jnp.asarray(self.columns), axis=dim)
        rows = len(self.columns) // self.num_parts
        start = lax.axis_index(self.axis) * rows
        return lax.dynamic_slice_in_dim(filled, start, rows, dim)

    def solving(self, model: PyTree) -> PyTree:
        """`model`, whose devices step together if they are to."""
        if not self.joint or not hasattr(model, "with_solve"):
            return model
        layout = self.layout
        is_even = layout.piece == layout.rows * self.num_parts
        samples = None if is_even else layout.piece
        norm = PooledNorm(self.axis, samples, shared=True)
        return model.with_solve(norm=norm)

    def total(self, tree: PyTree) -> PyTree:
        """The sum of all arrays over the devices, in one exchange for each dtype."""
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, summed_at_once(leaves, (self.axis,)))

    def share(self, tree: PyTree) -> PyTree:
        """What a device has to give for the sum over all to be what each has."""
        return jax.tree.map(lambda x: x / self.num_parts, tree)


def division(
    sharding: NamedSharding | None,
    samples: int,
    joint: bool = True,
    accumulate: int = 1,
) -> Division | None:
    """How a batch of so many rows is divided; `None` where it stays on one device.

    Raises:
        ValueError: for a sharding that does not name one axis for the first dimension.
    """
    if sharding is None:
        return None
    spec = tuple(sharding.spec)
    if len(spec) != 1 or not isinstance(spec[0], str):
        raise ValueError(
            f"sharding has {sharding.spec}; batches are divided over one axis of the "
            'mesh, by NamedSharding(mesh, PartitionSpec("batch")).'
        )
    return Division(sharding, samples, joint, accumulate)
