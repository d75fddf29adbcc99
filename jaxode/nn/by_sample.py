"""What each sample of a batch is given, where each is an ODE of its own."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree


def split_by_sample(args: PyTree, axes: PyTree) -> tuple[PyTree, PyTree]:
    """`args` in two parts that `equinox.combine` puts together: by sample, and shared.

    Args:
        args: Any pytree.
        axes: 0 or `None`, or a prefix of `args` with these: what is handed out by
            sample, and what is not. Numbers without axes are shared.

    Raises:
        ValueError: for an axis that is neither.
    """
    is_none = lambda x: x is None
    if any(axis not in (0, None) for axis in jax.tree.leaves(axes, is_leaf=is_none)):
        raise ValueError(
            f"args_axes={axes}: the batch is the first axis of what is handed out by "
            "sample; pass 0 for that, or None for what all samples share."
        )

    def under(axis: Any, part: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: axis == 0 and eqx.is_array(x) and x.ndim > 0, part
        )

    mask = jax.tree.map(under, axes, args, is_leaf=is_none)
    return eqx.partition(args, mask)


def check_rows(by_sample: PyTree, batch: int) -> None:
    """Raises `ValueError` for an array that has not a row for each sample."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(by_sample):
        if np.shape(leaf)[0] != batch:
            name = "args" + jax.tree_util.keystr(path)
            raise ValueError(
                f"{name} has shape {np.shape(leaf)}, and there are {batch} samples; "
                "with per_sample=True every array of args has a row for each. Pass "
                "args_axes=None to hand args out whole."
            )
