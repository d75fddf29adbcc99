"""A state with sums that are carried along: integrated, and not controlled.

What only integrates feeds back into nothing, so its error does not grow, and a step
size that looks at it is shorter for no gain. Controllers are shown `controlled(state)`.
"""

from typing import NamedTuple

import jax
from jaxtyping import PyTree


class Carried(NamedTuple):
    """A state, its time derivative, or a cotangent of one.

    Attributes:
        y: What the field depends on.
        sums: What it does not.
    """

    y: PyTree
    sums: PyTree


def controlled(tree: PyTree) -> PyTree:
    """`tree` without the sums that any part of it carries."""
    is_carried = lambda x: isinstance(x, Carried)
    return jax.tree.map(lambda x: x.y if is_carried(x) else x, tree, is_leaf=is_carried)
