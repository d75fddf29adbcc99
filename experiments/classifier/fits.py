"""Which settings go with which model.

Free of JAX, as `config` is.
"""

from classifier.config import Config
from classifier.presets import defaults
from console.command_line import InputError


ODE = ("odenet", "paper")
ONE_STEP = ("rknet", "paper-rknet")
RESIDUAL = ("residual", "paper-residual")

FITS: dict[str, tuple[str, ...]] = {
    "blocks": RESIDUAL,
    "weights": RESIDUAL,
    "solver": ODE + ONE_STEP,
    "adjoint": ODE + ONE_STEP,
    "activation": ODE + ONE_STEP + RESIDUAL,
    "time": ("odenet", "rknet"),
    "zero_init": ("paper", "paper-rknet"),
    **dict.fromkeys(["augment", "t1", "kinetic", "jacobian"], ODE + ONE_STEP),
    **dict.fromkeys(["rtol", "atol", "dt0", "fixed_steps", "max_steps"], ODE),
    **dict.fromkeys(["learn_t1", "steer"], ODE),
}
"""Setting to the models that have it; all models have the others."""


def fits(model: str, name: str) -> bool:
    """Whether a model looks at a setting."""
    return name not in FITS or model in FITS[name]


def check_fit(config: Config) -> None:
    """Refuses settings that the model does not look at.

    Raises:
        InputError: naming the option, what it was, and the models that have it.
    """
    usual = defaults(config.preset, config.model)
    for name, models in FITS.items():
        value = getattr(config, name)
        if config.model not in models and value != getattr(usual, name):
            option = f"--{name.replace('_', '-')}"
            given = option if value is True else f"{option} {value}"
            raise InputError(
                f"{given} means nothing to --model {config.model}: it is for "
                f"--model {' and '.join(models)}."
            )


OPTIONS = "activation time augment zero_init t1 learn_t1 kinetic jacobian steer".split()


def describe(config: Config) -> str:
    """What is between stem and head, and how it is computed, in a few words."""
    parts = [config.model]
    if config.model in RESIDUAL:
        weights = "tied" if is_tied(config) else "untied"
        parts.append(f"{num_blocks(config)} {weights} blocks")
    elif config.model in ONE_STEP:
        parts.append(f"one step of {config.solver}")
    elif config.model in ODE:
        fixed = [f"steps of {config.dt0}"]
        adaptive = [f"rtol {config.rtol}", f"atol {config.atol}"]
        parts += [config.solver, *(fixed if config.fixed_steps else adaptive)]
    for name in OPTIONS:
        value = getattr(config, name)
        if value != getattr(Config, name):
            option = name.replace("_", " ")
            parts.append(option if value is True else f"{option} {value}")
    return ", ".join(parts)


def run_name(config: Config) -> str:
    """What the folder of a run is called after."""
    if not fits(config.model, "adjoint"):
        return config.model
    prefix = "" if config.model == "odenet" else f"{config.model}-"
    return prefix + config.adjoint


def num_blocks(config: Config) -> int:
    """Residual blocks of the model; none for models that are not made of them."""
    return (config.blocks or 6) if config.model in RESIDUAL else 0


def is_tied(config: Config) -> bool:
    """Whether residual blocks share their weights."""
    if config.weights is None:
        return config.model == "residual"
    return config.weights == "tied"
