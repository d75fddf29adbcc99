"""The settings of `adjoints.py`, and the sizes of its full and its quick form.

Free of JAX, so that `--help` and a typing error take no time.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, Literal

from classifier.checks import check as check_recipe
from classifier.config import AdjointName, Config, DatasetName
from console.command_line import InputError


ADJOINTS: tuple[str, ...] = get_args(AdjointName)
PartName = Literal["memory", "tolerance", "training", "horizon", "solvers", "twins"]
PARTS: tuple[PartName, ...] = (
    "memory",
    "tolerance",
    "training",
    "horizon",
    "solvers",
    "twins",
)


@dataclass(frozen=True)
class AdjointsConfig:
    """Measures what each way of taking gradients costs, and where it breaks."""

    parts: tuple[PartName, ...] = PARTS
    """What to measure.
    memory: temporary bytes of a gradient against the number of Euler steps.
    tolerance: gradient error and seconds against the tolerance.
    training: field calls, forward and backward, along training.
    horizon: how far the state can be solved backwards.
    solvers: accuracy of trained networks under other solvers and tolerances.
    twins: the ODE block against residual blocks and against none."""
    quick: bool = False
    """Everything as small as can be, to see that it runs: the numbers mean little."""
    adjoints: tuple[str, ...] = ()
    """Ways of taking gradients to compare, by name; all if not given."""
    run: Path | None = None
    """Folder of a finished run of mnist.py; its network is the trained one."""
    dataset: DatasetName = "auto"
    """Images to train on and to score.
    auto: MNIST if it is here or can be downloaded, else digits, with a notice."""
    data_dir: Path | None = None
    """Folder with the four original files of the data set; only read."""
    epochs: int | None = None
    """Passes of every training over its images; 2 if not given."""
    train_size: int | None = None
    """Train on the first so many images only; on all if not given."""
    seed: int = 0
    """Decides initialisation, order of the images and augmentation."""
    out: Path | None = None
    """New folder for tables and figures; runs/TIME-adjoints if not given."""
    redraw: Path | None = None
    """Folder of an earlier call: only draws its figures again, from its tables."""
    quiet: bool = False
    """Print notices and the result only."""


@dataclass(frozen=True)
class Sizes:
    """How much each part measures.

    Attributes:
        recipe: Training of every network, before what a variant changes.
        stretches: Parts of equal length that one training is looked at in.
        trained_at: Tolerances that networks are trained at; the first is the post's.
        batch: Images in the gradients that are compared.
        memory_steps: Numbers of fixed Euler steps.
        states: Of the network whose gradients are compared.
        tolerances: Both tolerances of the compared gradients.
        network_steps: Bound on the network's steps there.
        rounds: In which the compared gradients take turns to be timed.
        problems: Analytic fields, by name.
        horizons: Ends of the integration.
        settings: Precision and tolerance over the horizons.
        field_steps: Bound on the trained field's steps over the horizons.
        scored: Images scored under other solvers, at most.
        score_tolerances: Tolerances they are scored under.
        score_steps: Numbers of fixed steps they are scored under.
        blocks: Residual blocks of the discrete twins.
    """

    recipe: Config
    stretches: int
    trained_at: tuple[float, ...]
    batch: int
    memory_steps: tuple[int, ...]
    states: tuple[Literal["fresh", "trained"], ...]
    tolerances: tuple[float, ...]
    network_steps: int
    rounds: int
    problems: tuple[str, ...]
    horizons: tuple[float, ...]
    settings: tuple[tuple[str, float], ...]
    field_steps: int
    scored: int
    score_tolerances: tuple[float, ...]
    score_steps: tuple[int, ...]
    blocks: int


# SGD along a cosine that ends at the last epoch. The bound on the steps is out of the
# way of the finest tolerance; it costs backsolve nothing.
FULL = Sizes(
    recipe=Config(
        adjoint="backsolve",
        epochs=2,
        decay_epochs=2,
        max_steps=1024,
        eval_batch_size=500,
    ),
    stretches=40,
    trained_at=(1e-1, 1e-2, 1e-4),
    batch=16,
    memory_steps=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    states=("fresh", "trained"),
    tolerances=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    network_steps=256,
    rounds=5,
    problems=("decay", "rotation", "contracting", "expanding", "stiff"),
    horizons=(1, 2, 5, 10, 50),
    settings=(("float32", 1e-3), ("float64", 1e-6)),
    field_steps=1024,
    scored=5_000,
    score_tolerances=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    score_steps=(1, 2, 5, 20),
    blocks=6,
)

QUICK = Sizes(
    recipe=Config(
        adjoint="backsolve",
        epochs=2,
        decay_epochs=2,
        max_steps=256,
        channels=2,
        train_size=300,
        batch_size=32,
    ),
    stretches=10,
    trained_at=(1e-1,),
    batch=4,
    memory_steps=(1, 10),
    states=("trained",),
    tolerances=(1e-1, 1e-3),
    network_steps=64,
    rounds=1,
    problems=("rotation",),
    horizons=(1, 5),
    settings=(("float32", 1e-3),),
    field_steps=64,
    scored=100,
    score_tolerances=(1e-1, 1e-3),
    score_steps=(2,),
    blocks=2,
)


def sizes_for(config: AdjointsConfig) -> Sizes:
    """The full or the quick ones, with what was asked for in their place.

    Everything but the data set, which is not known yet, is in the recipe then.
    """
    chosen = QUICK if config.quick else FULL
    epochs = config.epochs or chosen.recipe.epochs
    recipe = dataclasses.replace(
        chosen.recipe,
        epochs=epochs,
        decay_epochs=epochs,
        train_size=config.train_size or chosen.recipe.train_size,
        seed=config.seed,
    )
    return dataclasses.replace(chosen, recipe=recipe)


def check(config: AdjointsConfig) -> None:
    """Refuses what makes no sense, before anything is read or written.

    Raises:
        InputError: naming the option, what it must be and what it was.
    """
    if not config.parts:
        raise InputError(f"--parts needs at least one of {', '.join(PARTS)}.")
    for name in ("epochs", "train_size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option} must be above 0; got {value}.")
    for name in config.adjoints:
        if name not in ADJOINTS:
            raise InputError(
                f"--adjoints must be among {', '.join(ADJOINTS)}; got {name}."
            )
    check_recipe(sizes_for(config).recipe)


def chosen_adjoints(config: AdjointsConfig) -> tuple[str, ...]:
    """The names asked for, each once, or all that the library has."""
    return tuple(dict.fromkeys(config.adjoints)) or ADJOINTS
