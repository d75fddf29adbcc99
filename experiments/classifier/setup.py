"""From settings to the network, its optimiser and their sources of randomness."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from classifier.config import Config
from classifier.networks import MODELS, Network
from console.host_memory import require_host_memory


_FINAL_LR_FRACTION = 0.01
# Where the learning rate drops, in parts of the decay: the paper's epochs of 160.
_DROPS = (60 / 160, 100 / 160, 140 / 160)
_DROP = 0.1
# Adam's usual 0.999 remembers a thousand steps, half an epoch of a run of three.
_SECOND_MOMENTS = 0.99
_SURELY_FITS = 512
"""Channels of some 20 MB of parameters."""


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


def build_model(config: Config) -> Network:
    """The untrained network; its weights are decided by the seed.

    Raises:
        InputError: if its parameters alone are more than the memory of the machine.
    """
    build = partial(MODELS[config.model], config)
    key = Keys.of(config.seed).model
    if config.channels > _SURELY_FITS:
        num_parameters = count_parameters(eqx.filter_eval_shape(build, key))
        require_host_memory(f"--channels {config.channels}", 4 * num_parameters)
    return build(key)


def count_parameters(model: Any) -> int:
    """Numbers that are trained."""
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def learning_rate(
    config: Config, steps_per_epoch: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """A linear rise, then a way down in one of the forms of `schedule`, or none."""
    decay_epochs = config.epochs if config.decay_epochs is None else config.decay_epochs
    # As floats: of a long schedule they do not fit into an int32.
    warmup_steps = float(round(config.warmup_epochs * steps_per_epoch))
    last = decay_epochs * steps_per_epoch

    def decay(step: Float[Array, ""]) -> Float[Array, ""]:
        if not decay_epochs:
            return jnp.ones((), jnp.float32)
        if config.schedule == "drops":
            drops = jnp.asarray([int(last * part) for part in _DROPS], jnp.float32)
            return _DROP ** jnp.sum(step >= drops, dtype=jnp.float32)
        decay_steps = max(round(last) - warmup_steps, 1.0)
        progress = jnp.clip((step - warmup_steps) / decay_steps, 0, 1)
        is_linear = config.schedule == "linear"
        left = 1 - progress if is_linear else (1 + jnp.cos(jnp.pi * progress)) / 2
        return _FINAL_LR_FRACTION + (1 - _FINAL_LR_FRACTION) * left

    def schedule(count: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(count, jnp.float32)
        lr = jnp.asarray(config.lr, jnp.float32) * decay(step)
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
    last = (".field.norm.", ".field.norm3.")

    def sets_speed(path: Any, _: Any) -> bool:
        return any(name in jax.tree_util.keystr(path) for name in last)

    return jax.tree_util.tree_map_with_path(sets_speed, params)


def _adam(
    lr: Callable[[ArrayLike], Float[Array, ""]], config: Config
) -> optax.GradientTransformation:
    adam = optax.adam(
        lr, b1=config.momentum, b2=_SECOND_MOMENTS, nesterov=config.nesterov
    )

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> Any:
        # Its bias correction raises a float to an integer, which strict promotion of
        # types refuses (optax 0.2.8); drop this when it does not.
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)


def build_optimiser(
    config: Config, steps_per_epoch: int
) -> optax.GradientTransformation:
    """SGD or Adam, after the schedule of the settings.

    The same object for the same settings: JAX keeps a compiled training step for each
    optimiser that it has met, so a notebook that trains again and again would grow.
    """
    deciding = {name: getattr(config, name) for name in _OF_THE_OPTIMISER}
    if config.decay_epochs is None:
        deciding["decay_epochs"] = float(config.epochs)
    return _optimiser(Config(**deciding), steps_per_epoch)


_OF_THE_OPTIMISER = """
    optimiser lr momentum nesterov clip_norm speed_decay
    schedule warmup_epochs decay_epochs
""".split()


@lru_cache(maxsize=16)
def _optimiser(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    limit, lr = config.clip_norm, learning_rate(config, steps_per_epoch)
    if config.optimiser == "adam":
        step = _adam(lr, config)
    else:
        step = optax.sgd(lr, momentum=config.momentum, nesterov=config.nesterov)
    return optax.chain(
        optax.clip_by_global_norm(limit) if limit else optax.identity(),
        optax.add_decayed_weights(config.speed_decay, mask=_sets_speed),
        step,
    )
