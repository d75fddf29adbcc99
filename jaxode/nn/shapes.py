"""Shape legend: the arrays that pass between the parts of a model.

`batch channel height width` name the axes in every annotation, in this order.
"""

from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Num


Images: TypeAlias = Num[jax.Array | np.ndarray, "..."]
"""(batch, 28, 28, 1). uint8 grey levels, or floats that are already normalised. The
shape is checked by the model, whose message says what to type."""

State: TypeAlias = Float[Array, "batch channel height width"]
"""What flows from the stem through the block to the head."""

MergedState: TypeAlias = Float[Array, "channel height row"]
"""The same state while a fast field is integrated: batch last, so that the innermost
loops of the compiled code run over images that all do the same, and merged with the
columns, so that there are many of them."""

Logits: TypeAlias = Float[Array, "batch class"]
"""Unnormalised log probabilities, 10 classes."""
