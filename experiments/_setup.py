"""From settings to what a run works with: devices, data on them, model, optimiser."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _command_line import InputError
from _config import Config
from _run_folder import read_settings, RunFolder, settings_that_decide
from _start import threads_asked_for
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree, UInt8

import jaxode


SOLVERS: dict[str, Callable[[], diffrax.AbstractSolver]] = {
    "dopri5": diffrax.Dopri5,
    "tsit5": diffrax.Tsit5,
    "dopri8": diffrax.Dopri8,
    "bosh3": diffrax.Bosh3,
    "heun": diffrax.Heun,
    "midpoint": diffrax.Midpoint,
    "euler": diffrax.Euler,
    "rk4": jaxode.RK4,
    "rk38": jaxode.RK38,
}

_FINAL_LR_FRACTION = 0.01


@dataclass(frozen=True)
class Images:
    """One set of images with labels, on the devices."""

    images: UInt8[Array, "image 28 28 1"]
    labels: Int[Array, " image"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Keys:
    """The independent sources of randomness of a run."""

    model: Key[Array, ""]
    order: Key[Array, ""]
    augmentation: Key[Array, ""]

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """All of them follow from the seed."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


def describe_devices() -> str:
    """What JAX has found."""
    devices = jax.devices()
    text = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if devices[0].platform == "cpu":
        text += f", {os.cpu_count()} cores"
        if threads := threads_asked_for():
            text += f", threads: {threads}"
    return text


def eval_batch_size(config: Config, num_images: int) -> int:
    """Images per solve when scoring; a batch is never larger than the set."""
    return min(config.eval_batch_size, num_images)


def compile_ahead(function: Any, *arguments: Any, **options: Any) -> Callable:
    """Compiles a jitted function without running it, so that this can be timed."""
    return lower(function, *arguments, **options).compile()


def lower(function: Any, *arguments: Any, **options: Any) -> Any:
    """Traces a jitted function; `compile()` of the result needs no Python any more."""
    return function.lower(*arguments, **options)


def batch_sharding(config: Config, num_scored: int) -> NamedSharding | None:
    """Splits batches over all devices, or over as many as divide them evenly."""
    sizes = math.gcd(config.batch_size, eval_batch_size(config, num_scored))
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if sizes % n == 0)
    if count == 1:
        return None
    return NamedSharding(
        Mesh(np.array(devices[:count]), "batch"), PartitionSpec("batch")
    )


def place(tree, sharding: NamedSharding | None):
    """Puts a whole copy of every array on every device of the mesh."""
    if sharding is None:
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))


def split_data(
    config: Config, dataset: jaxode.datasets.Dataset
) -> tuple[jaxode.datasets.Split, jaxode.datasets.Split, str]:
    """Training images, images to score, and what the latter are called.

    Raises:
        InputError: if more images are asked for than there are.
    """
    train, scored, name = dataset.train, dataset.test, "test"
    available = len(train.labels)
    if config.holdout:
        if config.holdout >= available:
            raise InputError(
                f"--holdout must leave some of the {available} training images of "
                f"{dataset.name}; got {config.holdout}."
            )
        available -= config.holdout
        scored = jaxode.datasets.Split(
            train.images[available:], train.labels[available:]
        )
        name = "held-out"
    size = config.train_size or available
    if size > available:
        raise InputError(
            f"--train-size must be at most {available}, the training images of "
            f"{dataset.name} that there are; got {size}."
        )
    return jaxode.datasets.Split(train.images[:size], train.labels[:size]), scored, name


def read_checkpoint_header(folder: RunFolder, stored: Config) -> dict[str, Any] | None:
    """What the last checkpoint of a run says about itself; `None` if there is none yet.

    Raises:
        InputError: if it was not made with the settings of the run.
        jaxode.training.CheckpointError: if it cannot be read.
    """
    if not folder.checkpoint.exists():
        return None
    header = jaxode.training.load_header(folder.checkpoint)
    made_with = read_settings(header["settings"], folder.checkpoint)
    if settings_that_decide(made_with) != settings_that_decide(stored):
        raise InputError(
            f"{folder.checkpoint} was made with other settings than those in "
            f"{folder.config}; one of the two has been changed."
        )
    return header


def build_model(config: Config) -> jaxode.nn.ODENet:
    """The untrained network; which one is decided by the seed."""
    return jaxode.nn.ODENet(
        config.channels,
        key=Keys.of(config.seed).model,
        solver=SOLVERS[config.solver](),
        adjoint=config.adjoint,
        rtol=None if config.fixed_steps else config.rtol,
        atol=None if config.fixed_steps else config.atol,
        dt0=config.dt0,
        max_steps=config.max_steps,
        plain=config.plain,
    )


def learning_rate(
    config: Config, steps_per_epoch: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """A linear rise, then a cosine down to a hundredth of the peak, or constant."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = round(config.decay_epochs * steps_per_epoch) - warmup_steps

    def schedule(count: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(count, jnp.float32)
        lr = jnp.asarray(config.lr, jnp.float32)
        if config.decay_epochs:
            progress = jnp.clip((step - warmup_steps) / max(decay_steps, 1), 0, 1)
            cosine = (1 + jnp.cos(jnp.pi * progress)) / 2
            lr *= _FINAL_LR_FRACTION + (1 - _FINAL_LR_FRACTION) * cosine
        # The first step is not wasted on a rate of zero.
        return lr * jnp.minimum((step + 1) / (warmup_steps + 1), 1)

    return schedule


def _sets_speed(params: PyTree) -> PyTree[bool]:
    """Which parameters are the scale and the offset of the field's normalisation.

    It comes last in the field, so the mean square of dy/dt is that of the scale plus
    that of the offset, and to decay these is to penalise the kinetic energy of the
    trajectory (Finlay et al. 2020, "How to train your neural ODE", arXiv:2002.02798).
    The convolution before it, and with it the path's direction, is left alone.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: ".field.norm." in jax.tree_util.keystr(path), params
    )


def build_optimiser(
    config: Config, steps_per_epoch: int
) -> optax.GradientTransformation:
    """SGD with momentum, after the schedule of the settings."""
    limit = config.clip_norm
    return optax.chain(
        optax.clip_by_global_norm(limit) if limit else optax.identity(),
        optax.add_decayed_weights(config.speed_decay, mask=_sets_speed),
        optax.sgd(
            learning_rate(config, steps_per_epoch),
            momentum=config.momentum,
            nesterov=config.nesterov,
        ),
    )
