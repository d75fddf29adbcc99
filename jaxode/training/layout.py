"""Where the images of a batch go: into pieces, and of each piece onto devices.

A piece is what is solved and differentiated at once; without accumulation there is one.
Every piece has as many rows on every device. What does not divide is filled up: a piece
with images of the batch that come again, and what a device has beyond its piece with
images of the piece.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


class Layout(NamedTuple):
    """How a batch lies.

    Attributes:
        samples: Images of the batch.
        num_parts: Devices that it is divided over.
        accumulate: Pieces that were asked for; there may be fewer, see `num_pieces`.
    """

    samples: int
    num_parts: int = 1
    accumulate: int = 1

    @property
    def piece(self) -> int:
        """Images of a piece, those included that fill the last one up."""
        return -(-self.samples // self.accumulate)

    @property
    def num_pieces(self) -> int:
        """Pieces of that size which the batch fills or begins."""
        return -(-self.samples // self.piece)

    @property
    def rows(self) -> int:
        """Rows that a device has of a piece."""
        return -(-self.piece // self.num_parts)

    @property
    def columns(self) -> Int[np.ndarray, " row"]:
        """Which image of the batch each row is, device by device, piece by piece."""
        first = np.arange(self.num_pieces) * self.piece
        of_piece = np.arange(self.rows * self.num_parts) % self.piece
        places = first[None, :, None] + of_piece.reshape(self.num_parts, 1, self.rows)
        return places.ravel() % self.samples

    def places(self, device: Int[Array, ""] | int) -> "Places":
        """Where the rows of a device are in the batch, in order."""
        at = device * self.rows + jnp.arange(self.rows, dtype=jnp.int32)
        first = jnp.arange(self.num_pieces, dtype=jnp.int32)[:, None] * self.piece
        places = first + at[None]
        return Places(places, (at[None] < self.piece) & (places < self.samples))


class Places(NamedTuple):
    """Where rows are in the whole batch.

    Attributes:
        place: Of each. Of one that does not count, some number.
        counts: Which of them count; the others fill up.
    """

    place: Int[Array, "*pieces row"]
    counts: Bool[Array, "*pieces row"]
