"""Why a gradient could not be had, in a line."""

import jax
import numpy as np

from .measure import Gradient


def failure_of(
    outcome: Gradient | Exception, max_steps: int | None = None
) -> str | None:
    """What went wrong, or `None` if nothing did.

    Args:
        outcome: What was computed, or the error that came instead.
        max_steps: Bound on the steps of each solve.
    """
    if isinstance(outcome, Exception):
        return _in_one_line(outcome)
    forward, backward = outcome.forward, outcome.backward
    total = int(forward.num_solves)
    for count, what in (
        (forward.num_max_steps, f"needed more than max_steps={max_steps} steps"),
        (forward.num_non_finite, "met a NaN or an infinity"),
        (forward.num_underflow, "stopped: step size below the resolution of the time"),
        (forward.num_other_failures, "failed in the solver itself"),
    ):
        if count > 0:
            return f"{int(count)} of {total} solves {what}"
    if backward.num_failures > 0:
        failed, total = int(backward.num_failures), int(backward.num_solves)
        return f"{failed} of {total} backward solves did not reach the first time"
    leaves = jax.tree.leaves((outcome.loss, outcome.grads))
    if not all(np.all(np.isfinite(leaf)) for leaf in leaves):
        return "the loss or the gradient is not finite"
    return None


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
