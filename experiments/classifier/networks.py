"""The models that `--model` names, made from settings. None of them knows these."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import diffrax
from jaxtyping import Array, Key

import jaxode
from classifier.config import Config
from classifier.fits import is_tied, num_blocks, ONE_STEP
from classifier.presets import defaults


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

Network: TypeAlias = jaxode.nn.ODENet | jaxode.nn.ResidualNet


def with_ode(kind: type[jaxode.nn.ODENet]) -> Callable[..., Network]:
    """Makes networks with an ODE block; of one step if the model says so."""

    def make(config: Config, key: Key[Array, ""]) -> Network:
        return kind(
            config.channels,
            key=key,
            activation=config.activation,
            plain=config.plain,
            time=config.time,
            augment=config.augment,
            zero_init=config.zero_init,
            regularisers=jaxode.nn.Regularisers(
                kinetic=config.kinetic, jacobian=config.jacobian, steer=config.steer
            ),
            t1=config.t1,
            learn_t1=config.learn_t1,
            **solve_settings(config),
        )

    return make


def with_blocks(kind: type[jaxode.nn.ResidualNet]) -> Callable[..., Network]:
    """Makes networks with residual blocks, or none."""

    def make(config: Config, key: Key[Array, ""]) -> Network:
        return kind(
            config.channels,
            key=key,
            num_blocks=num_blocks(config),
            tied=is_tied(config),
            activation=config.activation,
            plain=config.plain,
        )

    return make


MODELS: dict[str, Callable[[Config, Key[Array, ""]], Network]] = {
    "odenet": with_ode(jaxode.nn.ODENet),
    "residual": with_blocks(jaxode.nn.ResidualNet),
    "rknet": with_ode(jaxode.nn.ODENet),
    "none": with_blocks(jaxode.nn.ResidualNet),
    "paper": with_ode(jaxode.nn.PaperNet),
    "paper-residual": with_blocks(jaxode.nn.PaperResidualNet),
    "paper-rknet": with_ode(jaxode.nn.PaperNet),
    "paper-none": with_blocks(jaxode.nn.PaperResidualNet),
}


def solve_settings(config: Config) -> dict[str, Any]:
    """How an ODE block is solved."""
    settings = dict(solver=SOLVERS[config.solver](), adjoint=config.adjoint)
    if config.model in ONE_STEP:
        return settings | dict(rtol=None, atol=None, dt0=config.t1, max_steps=1)
    tolerances = dict(
        rtol=None if config.fixed_steps else config.rtol,
        atol=None if config.fixed_steps else config.atol,
    )
    control = dict(dt0=config.dt0, max_steps=config.max_steps)
    return settings | tolerances | control


def learned_end(model: Network) -> dict[str, Any]:
    """The end time, for the line of an epoch, of a network that learns it."""
    if isinstance(model, jaxode.nn.ODENet) and model.block.end_time is not None:
        return {"t1": round(float(model.block.end_time), 6)}
    return {}


def config_of(model: Network) -> Config:
    """The settings that a network of this kind and size was trained with in PyTorch.

    Those of its post or paper. Other presets train networks to be solved in one step.
    """
    is_paper = isinstance(model, jaxode.nn.PaperNet | jaxode.nn.PaperResidualNet)
    sizes: dict[str, Any] = dict(channels=model.stem.channels)
    if isinstance(model, jaxode.nn.ODENet):
        name = "paper" if is_paper else "odenet"
    elif model.num_blocks:
        name = "paper-residual" if is_paper else "residual"
        weights = "tied" if model.tied else "untied"
        sizes |= dict(blocks=model.num_blocks, weights=weights)
    else:
        name = "paper-none" if is_paper else "none"
    return dataclasses.replace(defaults("post", name), model=name, **sizes)
