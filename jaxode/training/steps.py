"""Training state and the jitted steps.

The loop lives on the device: the whole data set is there as uint8, a batch is a row of
indices, and one call runs as many steps as the caller wants between two looks at the
numbers. Nothing here raises from inside jit. An update that must not be applied is left
out and counted; what to do about it is decided on the host.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, Num, PyTree

from .batches import cropped, draw_shifts, shifted
from .division import Division, division
from .gradient import divided_gradient, gradient
from .metrics import add_backward, Metrics
from .skip import all_finite, new_if
from .train_data import TrainBatches, TrainData


MAX_SKIPPED_IN_A_ROW = 10
"""Updates skipped one after the other at which `train_steps` gives up."""


class TrainState(eqx.Module):
    """What a training step takes and returns.

    Attributes:
        model: The classifier, `model(images) -> logits`; see `loss_and_metrics`.
        opt_state: State of the optimiser over the model's inexact arrays.
        step: Steps tried so far, skipped ones included: the position in the data order.
        skipped_in_a_row: Updates skipped since the last one that was applied.

    Examples:
        >>> import jax
        >>> import jaxode
        >>> import optax
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> state = jaxode.training.TrainState.create(net, optax.sgd(0.1))
        >>> int(state.step)
        0
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


@eqx.filter_jit
def train_step(
    state: TrainState,
    images: Num[Array, "batch height width 1"],
    labels: Int[Array, " batch"],
    *,
    optimiser: optax.GradientTransformation,
    key: Key[Array, ""] | None = None,
    accumulate: int = 1,
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
        accumulate: As for `train_steps`.

    Returns:
        The state after the step, and the metrics of the batch before the update.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> net, sgd = jaxode.nn.ODENet(6, key=jax.random.key(0)), optax.sgd(0.1)
        >>> state = jaxode.training.TrainState.create(net, sgd)
        >>> images, labels = jnp.ones((4, 28, 28, 1)), jnp.arange(4)
        >>> state, metrics = jaxode.training.train_step(
        ...     state, images, labels, optimiser=sgd
        ... )
        >>> int(state.step), int(metrics.total)
        (1, 4)
    """
    return _step(state, images, labels, optimiser, None, key, accumulate)


@eqx.filter_jit(donate="all-except-first")
def train_steps(
    data: TrainData | TrainBatches,
    state: TrainState,
    metrics: Metrics,
    *,
    optimiser: optax.GradientTransformation,
    max_shift: int = 0,
    crop: int = 0,
    sharding: NamedSharding | None = None,
    joint: bool = True,
    accumulate: int = 1,
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
            axis. `None` leaves everything on one device. The batch need not divide.
        joint: Whether the devices take the steps of a solve together, which makes the
            result that of one device, to rounding, at one number exchanged for each
            step. Otherwise each controls the steps for its own images: nothing is
            exchanged within a solve, and the result depends on the number of devices.
            For models that have a method `with_solve`, as `jaxode.nn.ODENet` has.
        accumulate: Pieces in which a batch is solved and differentiated, one after the
            other, in the memory of one. The update is that of the batch, to rounding,
            where every image is computed by itself; a model that solves a batch as one
            ODE takes for each piece the steps that suit its images, so the gradient
            differs by what the tolerance leaves, as with another batch size. What does
            not divide is filled up, and every image counts once. `metrics.batches`
            counts pieces.

    Returns:
        The state after the last step, and the metrics with those of the steps added.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> import optax
        >>> key, sgd = jax.random.key(0), optax.sgd(0.1)
        >>> state = jaxode.training.TrainState.create(jaxode.nn.ODENet(6, key=key), sgd)
        >>> order = jaxode.training.epoch_order(key, 0, num_images=4, batch_size=2)
        >>> images, labels = jnp.ones((4, 28, 28, 1)), jnp.arange(4)
        >>> epoch = jaxode.training.TrainData(
        ...     images, labels, order, jnp.array([0, 2]), key
        ... )
        >>> start = jaxode.training.Metrics.zeros()
        >>> state, metrics = jaxode.training.train_steps(
        ...     epoch, state, start, optimiser=sgd
        ... )
        >>> int(state.step), int(metrics.total)
        (2, 4)
    """
    arrays, static = eqx.partition(state, eqx.is_array)
    # Within a device's part there are fewer.
    samples = data.samples
    part = division(sharding, samples, joint, accumulate)

    def keep_going(stop, carry):
        index, arrays, _ = carry
        return (index < stop) & (arrays.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW)

    def body(data, carry):
        index, arrays, metrics = carry
        state = eqx.combine(arrays, static)
        images, labels = data.batch(index)
        key = jax.random.fold_in(data.key, state.step)
        # Drawn for the whole batch on every device, so that their number does not tell.
        own = (lambda drawn: drawn) if part is None else partial(part.own, dim=1)
        if max_shift:
            images = shifted(images, own(draw_shifts(key, samples, max_shift)))
        if crop:
            shifts = draw_shifts(jax.random.fold_in(key, 1), samples, crop)
            images = cropped(images, own(shifts), crop)
        own_key = jax.random.fold_in(key, 2)
        state, step_metrics = _step(
            state, images, labels, optimiser, part, own_key, accumulate
        )
        return index + 1, eqx.filter(state, eqx.is_array), metrics.merge(step_metrics)

    def run(data, arrays, metrics):
        start, stop = data.rows
        # A while loop, not a scan over rows: the number of steps stays out of the
        # compiled code, so progress can be shown by the clock and a run that is lost
        # ends at once.
        carry = (start, arrays, metrics)
        goes_on = partial(keep_going, stop)
        return jax.lax.while_loop(goes_on, partial(body, data), carry)[1:]

    if part is not None:
        data, specs = data.divided(part)
        everywhere = PartitionSpec()
        specs = specs, everywhere, everywhere
        run = jax.shard_map(
            run, mesh=part.sharding.mesh, in_specs=specs, out_specs=everywhere
        )
    arrays, metrics = run(data, arrays, metrics)
    return eqx.combine(arrays, static), metrics


def _step(
    state: TrainState,
    images: Array,
    labels: Array,
    optimiser: optax.GradientTransformation,
    part: Division | None,
    key: Key[Array, ""] | None,
    accumulate: int,
) -> tuple[TrainState, Metrics]:
    params, static = eqx.partition(state.model, eqx.is_inexact_array)
    if part is None:
        found = gradient(params, static, images, labels, key, accumulate)
    else:
        found = divided_gradient(params, static, images, labels, part, key)
    loss, metrics, grads, backward = found
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
