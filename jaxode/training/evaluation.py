"""Scoring: every image exactly once, in one call, without gradients."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Num, PyTree

from .._steps.lanes import varying_over
from .division import Division, division
from .gradient import total_metrics
from .metrics import loss_and_metrics, Metrics, sums
from .train_data import TestBatches


@eqx.filter_jit
def evaluate(
    model: PyTree,
    images: Num[Array, "images height width 1"],
    labels: Int[Array, " images"],
    *,
    batch_size: int = 1000,
    sharding: NamedSharding | None = None,
    joint: bool = True,
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
        joint: As for `train_steps`.

    Returns:
        Metrics over all images.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> images, labels = jnp.ones((10, 28, 28, 1)), jnp.arange(10)
        >>> scored = jaxode.training.evaluate(net, images, labels, batch_size=5)
        >>> int(scored.total), int(scored.correct)  # equal images, all labels
        (10, 1)
    """
    num_images = labels.shape[0]
    num_batches = -(-num_images // batch_size)
    order = jnp.arange(num_batches * batch_size).reshape(num_batches, batch_size)
    part = division(sharding, batch_size, joint)

    def take(images, labels, batch):
        index = batch % num_images
        return images[index], labels[index], batch < num_images

    if part is None:

        def body(metrics, batch):
            *block, mask = take(images, labels, batch)
            _, batch_metrics = loss_and_metrics(model, *block, mask=mask)
            return metrics.merge(batch_metrics), None

        metrics, _ = jax.lax.scan(body, Metrics.zeros(), order)
        return metrics

    everywhere = PartitionSpec()
    return jax.shard_map(
        lambda model, images, labels, order: _scored(
            model, part, order, partial(take, images, labels)
        ),
        mesh=part.sharding.mesh,
        in_specs=(everywhere, everywhere, everywhere, part.spec(1)),
        out_specs=everywhere,
    )(model, images, labels, order[:, jnp.asarray(part.columns)])


@eqx.filter_jit
def evaluate_batches(
    model: PyTree,
    batches: TestBatches,
    *,
    sharding: NamedSharding,
    joint: bool = True,
) -> Metrics:
    """`evaluate`, of images that no device has all of.

    Args:
        model: As in `evaluate`.
        batches: The images.
        sharding: As in `evaluate`.
        joint: As in `evaluate`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> from jax.sharding import Mesh, NamedSharding, PartitionSpec
        >>> mesh = Mesh(jax.devices()[:1], "batch")
        >>> spread = NamedSharding(mesh, PartitionSpec("batch"))
        >>> images, labels = jnp.ones((2, 4, 28, 28, 1)), jnp.zeros((2, 4), jnp.int32)
        >>> counts = labels == 0  # all of them
        >>> batches = jaxode.training.TestBatches(images, labels, counts, samples=4)
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> int(jaxode.training.evaluate_batches(net, batches, sharding=spread).total)
        8
    """
    part = division(sharding, batches.samples, joint)
    assert part is not None
    return jax.shard_map(
        lambda model, *batches: _scored(model, part, batches, lambda block: block),
        mesh=part.sharding.mesh,
        in_specs=(PartitionSpec(), *[part.spec(1)] * 3),
        out_specs=PartitionSpec(),
    )(model, batches.images, batches.labels, batches.counts)


def _scored(model: PyTree, part: Division, over: PyTree, take) -> Metrics:
    """Metrics over all batches, of which this device has its rows."""
    solving = part.solving(model)

    def body(metrics, batch):
        images, labels, counts = take(batch)
        mask: Bool[Array, " row"] = counts & part.counts()
        _, _, batch_metrics = sums(solving, images, labels, mask)
        return metrics.merge(varying_over(batch_metrics, (part.axis,))), None

    start = varying_over(Metrics.zeros(), (part.axis,))
    metrics, _ = jax.lax.scan(body, start, over)
    return total_metrics(metrics, part)
