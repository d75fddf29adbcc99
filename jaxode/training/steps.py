"""Training state, the jitted steps, and evaluation.

The loop lives on the device: the whole data set is there as uint8, a batch is a row of
indices, and one call runs as many steps as the caller wants between two looks at the
numbers. Nothing here raises from inside jit. An update that must not be applied is left
out and counted; what to do about it is decided on the host.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, Num, PyTree

from .._solve.probes import value_and_grad_with_stats
from .batches import random_crop, random_shift
from .metrics import add_backward, loss_and_metrics, Metrics
from .skip import all_finite, new_if


MAX_SKIPPED_IN_A_ROW = 10
"""Updates skipped one after the other at which `train_steps` gives up."""


class TrainState(eqx.Module):
    """What a training step takes and returns.

    Attributes:
        model: The classifier, `model(images) -> logits`; see `loss_and_metrics`.
        opt_state: State of the optimiser over the model's inexact arrays.
        step: Steps tried so far, skipped ones included: the position in the data order.
        skipped_in_a_row: Updates skipped since the last one that was applied.
    """

    model: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]

    @classmethod
    def create(
        cls, model: PyTree, optimiser: optax.GradientTransformation
    ) -> "TrainState":
        """The state before the first step."""
        opt_state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
        # Two arrays, not one twice: both are donated.
        return cls(model, opt_state, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


class TrainData(eqx.Module):
    """What the steps of one epoch read and never write.

    Attributes:
        images: The whole training set, as the model takes it.
        labels: Class of each image.
        order: Which images make up each batch of the epoch (`epoch_order`).
        rows: The first row of `order` to train on, and one past the last.
        key: Source of the augmentation. A step folds in its own number.
    """

    images: Num[Array, "images height width 1"]
    labels: Int[Array, " images"]
    order: Int[Array, "batches batch"]
    rows: Int[Array, "2"]
    key: Key[Array, ""]


@eqx.filter_jit
def train_step(
    state: TrainState,
    images: Num[Array, "batch height width 1"],
    labels: Int[Array, " batch"],
    *,
    optimiser: optax.GradientTransformation,
    key: Key[Array, ""] | None = None,
) -> tuple[TrainState, Metrics]:
    """One gradient step on one batch.

    The update is left out, with everything but the two counters as it was, if a solve
    failed, forward or backward, or if the loss, a gradient or an updated parameter is
    not finite; `metrics.num_skipped` is then 1.

    Args:
        state: State before the step.
        images: One batch, as the model takes it.
        labels: Class of each image.
        optimiser: The transformation that `state` was created with.
        key: Randomness of the model, for one that is trained otherwise than it is
            scored (`loss_and_metrics`); without, it is trained as it is scored.

    Returns:
        The state after the step, and the metrics of the batch before the update.
    """
    return _step(state, images, labels, optimiser, key)


@eqx.filter_jit(donate="all-except-first")
def train_steps(
    data: TrainData,
    state: TrainState,
    metrics: Metrics,
    *,
    optimiser: optax.GradientTransformation,
    max_shift: int = 0,
    crop: int = 0,
    sharding: NamedSharding | None = None,
) -> tuple[TrainState, Metrics]:
    """Runs the steps `data.rows` of an epoch without visiting the host.

    Cutting an epoch into more calls changes no bit of the result, so a caller may
    choose the rows by the clock. Returns early once `MAX_SKIPPED_IN_A_ROW` updates were
    skipped one after the other; `state.skipped_in_a_row` says so.

    Args:
        data: Training set, data order, and which rows of it.
        state: State before the first of them. Donated: do not use it again.
        metrics: Sums so far, to be added to. Donated.
        optimiser: The transformation that `state` was created with.
        max_shift: Augmentation: images are moved by up to so many pixels. 0 is none.
        crop: Augmentation: images get so many pixels of zeros on each side, and are cut
            to their size again at random places. 0 is none. Zeros are the background
            of uint8 images only.
        sharding: How to spread a batch over devices: a `PartitionSpec` of one mesh
            axis. `None` leaves everything on one device.

    Returns:
        The state after the last step, and the metrics with those of the steps added.
    """
    arrays, static = eqx.partition(state, eqx.is_array)
    start, stop = data.rows

    def keep_going(carry):
        index, arrays, _ = carry
        return (index < stop) & (arrays.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW)

    def body(carry):
        index, arrays, metrics = carry
        state = eqx.combine(arrays, static)
        batch = jax.lax.dynamic_index_in_dim(data.order, index, keepdims=False)
        images, labels = _spread((data.images[batch], data.labels[batch]), sharding)
        key = jax.random.fold_in(data.key, state.step)
        if max_shift:
            images = random_shift(key, images, max_shift)
        if crop:
            images = random_crop(jax.random.fold_in(key, 1), images, crop)
        own_key = jax.random.fold_in(key, 2)
        state, step_metrics = _step(state, images, labels, optimiser, own_key)
        arrays = _replicate(eqx.filter(state, eqx.is_array), sharding)
        return index + 1, arrays, metrics.merge(step_metrics)

    # A while loop, not a scan over rows: the number of steps stays out of the compiled
    # code, so progress can be shown by the clock and a run that is lost ends at once.
    carry = (start, arrays, metrics)
    _, arrays, metrics = jax.lax.while_loop(keep_going, body, carry)
    return eqx.combine(arrays, static), metrics


@eqx.filter_jit
def evaluate(
    model: PyTree,
    images: Num[Array, "images height width 1"],
    labels: Int[Array, " images"],
    *,
    batch_size: int = 1000,
    sharding: NamedSharding | None = None,
) -> Metrics:
    """Scores every image exactly once, in one call, without gradients.

    Where `batch_size` does not divide the number of images, the last batch is filled up
    with the first images again. They take part in the solve and are not counted.

    Args:
        model: Classifier, as for `loss_and_metrics`.
        images: All images to score.
        labels: Class of each image.
        batch_size: Images per solve. The metrics are those of any other size, except
            that the images of a batch share their step sizes.
        sharding: As for `train_steps`.

    Returns:
        Metrics over all images.
    """
    num_images = labels.shape[0]
    num_batches = -(-num_images // batch_size)
    order = jnp.arange(num_batches * batch_size).reshape(num_batches, batch_size)

    def body(metrics, batch):
        index = batch % num_images
        block = _spread((images[index], labels[index]), sharding)
        _, batch_metrics = loss_and_metrics(model, *block, mask=batch < num_images)
        return metrics.merge(batch_metrics), None

    metrics, _ = jax.lax.scan(body, Metrics.zeros(), order)
    return metrics


def _step(
    state: TrainState,
    images,
    labels,
    optimiser: optax.GradientTransformation,
    key: Key[Array, ""] | None,
) -> tuple[TrainState, Metrics]:
    params, static = eqx.partition(state.model, eqx.is_inexact_array)

    def loss_fn(params):
        return loss_and_metrics(eqx.combine(params, static), images, labels, key=key)

    grad_fn = value_and_grad_with_stats(loss_fn, has_aux=True)
    (loss, metrics), grads, backward = grad_fn(params)
    # Optax's schedules mix int32 with Python floats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimiser.update(grads, state.opt_state, params)
    new_params = eqx.apply_updates(params, updates)
    is_applied = all_finite((loss, grads, new_params))
    is_applied &= (metrics.num_failures == 0) & (backward.num_failures == 0)
    params, opt_state = new_if(
        is_applied, (new_params, opt_state), (params, state.opt_state)
    )
    state = TrainState(
        model=eqx.combine(params, static),
        opt_state=opt_state,
        step=state.step + 1,
        skipped_in_a_row=jnp.where(is_applied, 0, state.skipped_in_a_row + 1),
    )
    return state, add_backward(metrics, backward, is_applied)


def _spread(tree: Any, sharding: NamedSharding | None) -> Any:
    """Splits the leading axis of every leaf over the devices of the mesh."""
    return tree if sharding is None else eqx.filter_shard(tree, sharding)


def _replicate(tree: Any, sharding: NamedSharding | None) -> Any:
    """Keeps the state whole on every device, whatever the compiler would choose."""
    if sharding is None:
        return tree
    return eqx.filter_shard(tree, NamedSharding(sharding.mesh, PartitionSpec()))
