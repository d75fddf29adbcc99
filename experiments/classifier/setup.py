"""From settings to the network, its optimiser and their sources of randomness."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

import jaxode
from classifier.config import Config


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
class Keys:
    """The independent sources of randomness of a run."""

    model: Key[Array, ""]
    order: Key[Array, ""]
    augmentation: Key[Array, ""]

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """All of them follow from the seed."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


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


def count_parameters(model: Any) -> int:
    """Numbers that are trained."""
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def learning_rate(
    config: Config, steps_per_epoch: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """A linear rise, then a cosine down to a hundredth of the peak, or constant."""
    # As floats: of a long schedule they do not fit into an int32.
    warmup_steps = float(round(config.warmup_epochs * steps_per_epoch))
    decay_steps = float(round(config.decay_epochs * steps_per_epoch)) - warmup_steps

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
