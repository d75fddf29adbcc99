"""Updates that must not be applied: left out, counted, and told of when they pile up.

For any loss and any loop. The classifier's own steps (`steps.py`) decide by the same
two functions, and keep their count in `TrainState`, as their checkpoints have it.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree


class SkipState(NamedTuple):
    """State of an optimiser that `skip_failed` made.

    Attributes:
        inner: That of the optimiser inside, as the last update applied left it.
        in_a_row: Updates skipped since then.
        total: Updates skipped altogether.
        most: `in_a_row` at which `raise_if_stuck` raises.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> state = jaxode.training.skip_failed(optax.sgd(0.1)).init(jnp.ones(2))
        >>> isinstance(state, jaxode.training.SkipState), int(state.total)
        (True, 0)
    """

    inner: Any
    in_a_row: Int[Array, ""]
    total: Int[Array, ""]
    most: Int[Array, ""]


class StuckError(RuntimeError):
    """A training in which no update was applied for too many steps.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> optimiser = jaxode.training.skip_failed(optax.sgd(0.1), max_in_a_row=1)
        >>> params, grads = jnp.ones(2), jnp.array([1.0, jnp.nan])
        >>> _, state = optimiser.update(grads, optimiser.init(params), params)
        >>> try:
        ...     jaxode.training.raise_if_stuck(state)
        ... except jaxode.training.StuckError:
        ...     print("stuck")
        stuck
    """


def skip_failed(
    optimiser: optax.GradientTransformation, max_in_a_row: int = 10
) -> optax.GradientTransformationExtraArgs:
    """The optimiser, leaving out updates that a failed solve or a NaN would spoil.

        optimiser = jaxode.training.skip_failed(optax.adam(1e-3))
        (loss, stats), grads, back = value_and_grad_with_stats(loss_fn)(params, data)
        failed = ~stats.success | (back.num_failures > 0)
        updates, state = optimiser.update(
            grads, state, params, failed=failed, value=loss
        )

    An update is skipped if `failed` holds anywhere, or the loss (`value`), a gradient,
    an update or an updated parameter is not finite: updates are then zero and the state
    inside stays as it was, momentum and schedules included.

    `optax.apply_if_finite` looks at gradients only, knows nothing of a solve whose
    gradient is finite and wrong, and applies what is not finite after so many in a row.
    This one never does; call `raise_if_stuck(state)` at every log line.

    Args:
        optimiser: Any Optax transformation.
        max_in_a_row: Skipped updates in a row that count as being stuck, >= 1.

    Raises:
        ValueError: where `max_in_a_row` is no positive integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> optimiser = jaxode.training.skip_failed(optax.sgd(0.1), max_in_a_row=10)
        >>> params = jnp.ones(2)
        >>> state = optimiser.init(params)
        >>> updates, state = optimiser.update(params * jnp.nan, state, params)
        >>> print(updates, state.in_a_row)
        [0. 0.] 1
    """
    if not isinstance(max_in_a_row, int) or max_in_a_row < 1:
        raise ValueError(
            f"max_in_a_row must be a positive integer; got {max_in_a_row!r}. Pass such "
            "as max_in_a_row=10."
        )
    inside = optax.with_extra_args_support(optimiser)

    def init(params: PyTree) -> SkipState:
        zeros = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        most = jnp.array(max_in_a_row, jnp.int32)
        return SkipState(inside.init(params), *zeros, most)

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        failed: ArrayLike = False,
        value: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[PyTree, SkipState]:
        extra |= {} if value is None else {"value": value}
        # Optax's schedules mix int32 with Python floats: strict promotion refuses that.
        with jax.numpy_dtype_promotion("standard"):
            new, inner = inside.update(updates, state.inner, params, **extra)
            after = () if params is None else eqx.apply_updates(params, new)
        is_applied = all_finite((updates, new, after, value)) & ~jnp.any(failed)
        new = jax.tree.map(lambda x: jnp.where(is_applied, x, jnp.zeros_like(x)), new)
        skipped = jnp.where(is_applied, 0, 1).astype(jnp.int32)
        return new, SkipState(
            inner=new_if(is_applied, inner, state.inner),
            in_a_row=jnp.where(is_applied, 0, state.in_a_row + 1),
            total=state.total + skipped,
            most=state.most,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def raise_if_stuck(opt_state: PyTree) -> None:
    """Raises where an optimiser made by `skip_failed` has skipped too often in a row.

    Call it from outside of `jax.jit`, as often as the loop visits the host anyway.

    Args:
        opt_state: The optimiser's state, or one that holds it somewhere.

    Raises:
        StuckError: where it is.
        ValueError: where there is no such state in it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> state = jaxode.training.skip_failed(optax.sgd(0.1)).init(jnp.ones(2))
        >>> jaxode.training.raise_if_stuck(state)  # nothing was skipped
    """
    is_skip = lambda x: isinstance(x, SkipState)
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_skip) if is_skip(x)]
    if not found:
        raise ValueError(
            "raise_if_stuck found no state of skip_failed; pass the state of "
            "jaxode.training.skip_failed(optimiser)."
        )
    for state in found:
        in_a_row, total, most = map(np.asarray, state[1:])
        if (in_a_row >= most).any():
            raise StuckError(
                f"{int(in_a_row.max())} updates in a row were skipped "
                f"({int(total.max())} in all): a solve failed, or the loss, a gradient "
                "or a parameter was not finite. The parameters are those of the last "
                "update applied. Solve from them with throw=True outside of jax.jit to "
                "see why, or lower the learning rate."
            )


def all_finite(tree: PyTree[Float[Array, "..."]]) -> Bool[Array, ""]:
    """Whether all of its floating-point entries are finite."""
    is_number = lambda x: eqx.is_inexact_array(x) or isinstance(x, float | complex)
    leaves = [x for x in jax.tree.leaves(tree) if is_number(x)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def new_if(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """`new` where the condition holds, else `old`, array by array."""

    def select(new, old):
        return jnp.where(condition, new, old) if eqx.is_array(old) else old

    return jax.tree.map(select, new, old)
