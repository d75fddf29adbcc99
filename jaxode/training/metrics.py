"""The loss, and what is counted along with it.

Everything measured is a sum or a count, so that two batches of any sizes merge by
addition and the division happens once, at the end. The mean of batch means would weigh
a short last batch as much as a full one.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from .._solve.stats import SolveCounts
from .layout import Places


class Metrics(eqx.Module):
    """Sums and counts over images and batches; `a.merge(b)` adds them.

    Attributes:
        loss_sum: Sum over images of the cross entropy, in nats. Leaves out the images
            of a training step that was skipped.
        correct: Number of images classified correctly.
        total: Number of images that `loss_sum` and `correct` are over.
        batches: Number of batches, that is, of solves.
        nfe_forward: Field calls of the forward solves; where each image has its own
            steps, the largest over the batch. 0 where a solver hides them.
        nfe_backward: Field calls of the backward solves, 0 for an evaluation.
        num_rejected_steps: Steps rejected by the error control, forward and backward.
        num_failures: Solves, forward or backward, that did not reach the end time.
        num_skipped: Training steps whose update was not applied.
        reconstruction_error_sum: Sum over batches of the distance between the initial
            state and what the backward solve arrived at (`SolveCounts`).

    Examples:
        >>> import jaxode
        >>> nothing = jaxode.training.Metrics.zeros()
        >>> int(nothing.merge(nothing).total)
        0
    """

    loss_sum: Float[Array, ""]
    correct: Int[Array, ""]
    total: Int[Array, ""]
    batches: Int[Array, ""]
    nfe_forward: Int[Array, ""]
    nfe_backward: Int[Array, ""]
    num_rejected_steps: Int[Array, ""]
    num_failures: Int[Array, ""]
    num_skipped: Int[Array, ""]
    reconstruction_error_sum: Float[Array, ""]

    @classmethod
    def zeros(cls) -> "Metrics":
        """The neutral element of `merge`."""
        # One array per field: they are donated to a jitted loop, and a buffer can be
        # donated only once.
        counts = {
            name: jnp.zeros((), jnp.int32)
            for name in cls.__dataclass_fields__
            if name not in ("loss_sum", "reconstruction_error_sum")
        }
        return cls(
            loss_sum=jnp.zeros((), jnp.float32),
            reconstruction_error_sum=jnp.zeros((), jnp.float32),
            **counts,
        )

    def merge(self, other: "Metrics") -> "Metrics":
        """Metrics over the batches of both."""
        return jax.tree.map(jnp.add, self, other)

    @property
    def loss(self) -> Float[Array, ""]:
        """Mean cross entropy per image, nats; NaN over no images."""
        return self.loss_sum / self.total.astype(self.loss_sum.dtype)

    @property
    def accuracy(self) -> Float[Array, ""]:
        """Fraction of images classified correctly; NaN over no images."""
        dtype = self.loss_sum.dtype
        return self.correct.astype(dtype) / self.total.astype(dtype)


def loss_and_metrics(
    model: PyTree,
    images: Num[Array, "batch height width 1"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"] | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Mean softmax cross entropy of one batch, and its metrics.

    An image whose solve failed, or whose logits are not finite, is never correct:
    `argmax` over NaN is class 0, which would score every zero in a failed batch.

    Args:
        model: Classifier, `model(images) -> logits`. If it has a method
            `with_stats(images) -> (logits, SolveStats)`, as `jaxode.nn.ODENet` has,
            this is called instead; if not, nothing is counted of its solves.
        images: One batch, as the model takes it.
        labels: Class of each image.
        mask: Images that count. The others take part in the batch-joint solve, but in
            neither the mean nor the metrics. Every image counts if `None`.
        key: For a training step: a model with a method
            `train_with_stats(images, key) -> (logits, penalty, SolveStats)` is asked
            for this, and the penalty is added to the loss. Where a step has rows of a
            batch only, on one of several devices or a piece of it at a time, the method
            is `train_part_with_stats(images, key, places, counts, samples)` if there is
            one, and its penalty what these rows contribute to that of the batch
            (`jaxode.nn.ODENet.train_part_with_stats`). Without it each part counts for
            as much as it has rows.

    Returns:
        The mean over the images that count, in nats, with the penalty; and the sums
        behind the mean.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> images, labels = jnp.ones((4, 28, 28, 1)), jnp.arange(4)
        >>> loss, metrics = jaxode.training.loss_and_metrics(net, images, labels)
        >>> bool(abs(loss - metrics.loss) < 1e-5)
        True
    """
    loss_sum, penalty, metrics = sums(model, images, labels, mask, key)
    loss = loss_sum / metrics.total.astype(loss_sum.dtype)
    return loss if penalty is None else loss + penalty, metrics


def sums(
    model: PyTree,
    images: Num[Array, "batch height width 1"],
    labels: Int[Array, " batch"],
    mask: Bool[Array, " batch"] | None = None,
    key: Key[Array, ""] | None = None,
    rows: tuple[Places, int] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""] | None, Metrics]:
    """`loss_and_metrics`, with the sum of the losses and the penalty, if any, apart.

    `rows` says where in a batch the images are, and how many that has; the penalty is
    then what they contribute to that of the batch.
    """
    logits, penalty, counts, succeeded = _classify(model, images, key, rows)

    # The sum over the images that count.
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    loss_sum = jnp.sum(jnp.where(mask, losses, 0))
    total = jnp.sum(mask, dtype=jnp.int32)

    # The sums beside it.
    is_correct = jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels
    is_correct &= jnp.all(jnp.isfinite(logits), axis=-1) & succeeded & mask
    metrics = dataclasses.replace(
        Metrics.zeros(),
        loss_sum=loss_sum.astype(jnp.float32),
        correct=jnp.sum(is_correct, dtype=jnp.int32),
        total=total,
        batches=jnp.ones((), jnp.int32),
        **counts,
    )
    return loss_sum, penalty, metrics


def _classify(
    model: PyTree,
    images: Num[Array, "batch height width 1"],
    key: Key[Array, ""] | None,
    rows: tuple[Places, int] | None,
) -> tuple[
    Float[Array, "batch class"],
    Float[Array, ""] | None,
    dict[str, Any],
    Bool[Array, "*batch"],
]:
    """Logits, penalty, what `Metrics` counts of the solve, and whether it succeeded."""
    penalty = None
    if key is not None and hasattr(model, "train_with_stats"):
        if rows is None:
            logits, penalty, stats = model.train_with_stats(images, key)
        elif hasattr(model, "train_part_with_stats"):
            places, samples = rows
            logits, penalty, stats = model.train_part_with_stats(
                images, key, places.place, places.counts, samples
            )
        else:
            places, samples = rows
            logits, penalty, stats = model.train_with_stats(images, key)
            penalty *= jnp.sum(places.counts, dtype=penalty.dtype) / samples
    elif hasattr(model, "with_stats"):
        logits, stats = model.with_stats(images)
    else:
        return model(images), None, {}, jnp.asarray(True)
    # One number for the batch; one for each image under per-image step control.
    counts = dict(
        # With a dtype: under x64 a sum of int32 is int64 where none is given.
        num_rejected_steps=jnp.sum(as_count(stats.num_rejected_steps), dtype=jnp.int32),
        num_failures=jnp.sum(as_count(~stats.success), dtype=jnp.int32),
    )
    if stats.nfe is not None:
        counts["nfe_forward"] = jnp.max(as_count(stats.nfe))
    return logits, penalty, counts, stats.success


def add_backward(
    metrics: Metrics, backward: SolveCounts, is_applied: Bool[Array, ""]
) -> Metrics:
    """Metrics of a training step: those of its batch, with the backward solve.

    Args:
        metrics: From `loss_and_metrics`, before the update.
        backward: Counts of the gradient computation.
        is_applied: Whether the update was. Where it was not, loss and accuracy are left
            out, since they may be NaN, and the step counts as skipped.

    Returns:
        The metrics that the steps of an epoch are summed from.
    """

    def keep(value):
        return jnp.where(is_applied, value, jnp.zeros_like(value))

    return dataclasses.replace(
        metrics,
        loss_sum=keep(metrics.loss_sum),
        correct=keep(metrics.correct),
        total=keep(metrics.total),
        nfe_backward=as_count(backward.nfe),
        num_rejected_steps=metrics.num_rejected_steps
        + as_count(backward.num_rejected_steps),
        num_failures=metrics.num_failures + as_count(backward.num_failures),
        num_skipped=as_count(~is_applied),
        reconstruction_error_sum=keep(
            backward.reconstruction_error.astype(jnp.float32)
        ),
    )


def as_count(
    count: Num[Array, "*batch"] | Bool[Array, "*batch"],
) -> Int[Array, "*batch"]:
    """A count as int32; a float one (it came through a cotangent) is rounded."""
    if jnp.issubdtype(count.dtype, jnp.floating):
        count = jnp.round(count)
    return count.astype(jnp.int32)
