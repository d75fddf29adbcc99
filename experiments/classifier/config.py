"""The settings of a run and their presets.

Free of JAX, like `_command_line`, so that `--help` and a typing error take no time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


AdjointName = Literal["discrete", "backsolve", "checkpoint", "direct"]
DatasetName = Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"]
SolverName = Literal[
    "dopri5", "tsit5", "dopri8", "bosh3", "heun", "midpoint", "euler", "rk4", "rk38"
]
Precision = Literal["highest", "high", "default"]
ModelName = Literal[
    "odenet",
    "residual",
    "rknet",
    "none",
    "paper",
    "paper-residual",
    "paper-rknet",
    "paper-none",
]
NOT_ADAPTIVE = ("euler", "rk4", "rk38")


@dataclass(frozen=True)
class Config:
    """Trains a neural ODE on images of handwritten digits and scores it.

    Other forms score a finished run, or weights from PyTorch, and put runs side by
    side: `mnist.py evaluate DIR` and `mnist.py table DIR...` (see their own --help).
    """

    preset: Literal["default", "fast", "post", "paper", "paper-fast"] = "default"
    """Source of the defaults.
    default: the most accurate.
    fast: its recipe in three epochs, for a minute.
    post: the recipe of the post.
    paper: network and recipe of the ODE-Net paper, for a GPU.
    paper-fast: that network in four epochs, for a CPU."""
    model: ModelName = "odenet"
    """What is between stem and head of the post's network; with paper-, of that of the
    ODE-Net paper.
    odenet: the ODE block.
    residual: residual blocks.
    rknet: one step of solver, of the whole length.
    none: nothing."""
    blocks: int | None = None
    """Number of residual blocks; 6 if not given."""
    weights: Literal["tied", "untied"] | None = None
    """Whether residual blocks share their weights, and each goes a part of the way.
    tied if not given; untied for paper-residual."""
    adjoint: AdjointName = "discrete"
    """How gradients are taken.
    discrete: through the steps that were taken, in memory that is bounded.
    backsolve: by a second solve, backwards in time.
    checkpoint: through the steps that were taken.
    direct: through max-steps steps, taken or not."""
    dataset: DatasetName = "auto"
    """What to train on.
    auto: MNIST if it is here or can be downloaded, else digits, with a notice.
    digits: the 1,797 small ones that come with scikit-learn."""
    data_dir: Path | None = None
    """Folder with the four original files of the data set; only read. MNIST's may be
    unpacked, and in torchvision's MNIST/raw."""
    epochs: int = 8
    """Passes over the training set."""
    batch_size: int = 64
    """Images per training step, which are solved as one ODE."""
    accumulate: int = 1
    """Pieces in which a batch is solved and differentiated, one after the other, in the
    memory of one; each is one ODE then. One update for all of them."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """sgd: with momentum.
    adam: whose second moments forget at 0.99."""
    lr: float = 0.05
    """Peak learning rate, per step."""
    momentum: float = 0.9
    """Momentum of SGD, or Adam's beta1, from 0 to below 1."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    clip_norm: float = 1.0
    """Gradients of a larger norm are scaled down to this one; 0 for no limit."""
    speed_decay: float = 1e-2
    """L2 decay of scale and offset of the field's normalisation, which are the length
    of dy/dt. Without it the field may grow until it cannot be solved backwards:
    presets default and fast have 0.1 under backsolve."""
    warmup_epochs: float = 0.5
    """Epochs in which the learning rate rises to its peak."""
    decay_epochs: float | None = 8.0
    """Epochs until the learning rate has come down; 0: never; None: epochs.
    Else not tied to epochs, so that a run can be resumed for more of them."""
    schedule: Literal["cosine", "linear", "drops"] = "cosine"
    """How the learning rate comes down.
    cosine, linear: along one, to a hundredth.
    drops: to a tenth of itself at 60, 100 and 140 of 160 parts of decay-epochs."""
    shift: int = 1
    """Pixels by which training images are moved each way, at random."""
    crop: int = 0
    """Pixels of background put around training images, out of which they are cut at
    random: shift in the paper's words."""
    channels: int = 6
    """Width of the network. 2 for weak machines."""
    activation: Literal["relu", "softplus", "tanh"] = "relu"
    """Activation within the field or the residual blocks."""
    time: bool = False
    """Give the time to the field's convolution as a channel, as paper always does."""
    augment: int = 0
    """Channels of zeros that the state has beside those of the stem."""
    zero_init: bool = False
    """Start from a field of zero: the scale of its last normalisation is."""
    t1: float = 1.0
    """End of the ODE, which starts at time 0."""
    learn_t1: bool = False
    """Train the end of the ODE with the weights, from t1 on."""
    kinetic: float = 0.0
    """Weight in the loss of the integral of the mean square of dy/dt."""
    jacobian: float = 0.0
    """Weight in the loss of the integral of the field's squared Jacobian."""
    steer: float = 0.0
    """In training, end the ODE at random, up to so much before or after t1."""
    solver: SolverName = "dopri5"
    """ODE solver. euler, rk4 and rk38 need fixed-steps."""
    rtol: float = 0.1
    """Relative tolerance of the solve."""
    atol: float = 0.1
    """Absolute tolerance of the solve."""
    dt0: float | None = None
    """First step of the solve; by Hairer's rule if None."""
    fixed_steps: bool = False
    """Take equal steps of at most dt0 and ignore rtol and atol."""
    max_steps: int = 64
    """Steps after which a solve has failed. direct takes time in proportion."""
    stream: bool = False
    """Read training images from the disk, ahead of their use, and keep few of them in
    memory. Changes no number. Needs the extra stream."""
    train_size: int | None = None
    """Train on the first so many images only."""
    holdout: int = 0
    """For choosing settings: so many training images are kept out and scored in place
    of the test images."""
    eval_batch_size: int = 50
    """Images per solve when scoring. On a CPU best so few that a state is in cache."""
    seed: int = 0
    """Decides initialisation, order of the images and augmentation."""
    precision: Precision = "highest"
    """Precision on GPU and TPU. Below highest, the solver's error estimate suffers."""
    out: Path | None = None
    """New folder for the results; runs/TIME-ADJOINT if not given."""
    resume: Path | None = None
    """Folder of a run to go on with, under its own settings; epochs may be raised."""
    checkpoint_format: Literal["file", "orbax"] = "file"
    """How the state is saved.
    file: all in one.
    orbax: arrays by Orbax, in a folder that the file names. Needs the extra orbax."""
    step_control: Literal["batch", "device"] = "batch"
    """Where there are several devices, whose error rules the steps of a solve.
    batch: that of the whole batch; the result does not depend on their number.
    device: that of each device's own images; nothing is exchanged within a solve."""
    devices: int | None = None
    """How many of the devices of a process to divide batches over.
    All by default, and of a CPU one for each core while it has 16 images at once."""
    distributed: bool = False
    """Run in several processes, each started with the same settings (docs/scaling.md).
    The next three are for where JAX does not detect them (Slurm, Kubernetes, TPUs)."""
    coordinator_address: str | None = None
    """HOST:PORT on which the first process answers the others."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which one this is, from 0."""
    quiet: bool = False
    """Print notices and the result only."""
    plain: bool = False
    """Compute by lax.conv and Diffrax's own stage loop: slow, equal to rounding."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores a run that `mnist.py` has trained, with another solver if asked.

    Or a network that PyTorch has trained, from a file of its weights.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run; or weights, in a .pth, .pt or .safetensors file."""
    dataset: DatasetName | None = None
    """For weights: what to score on; auto if not given."""
    blocks: int | None = None
    """For weights that residual blocks share: the number of these."""
    solver: SolverName | None = None
    """ODE solver; as in training if not given, like everything below."""
    rtol: float | None = None
    """Relative tolerance of the solve."""
    atol: float | None = None
    """Absolute tolerance of the solve."""
    dt0: float | None = None
    """First step of the solve; every step with fixed-steps."""
    fixed_steps: bool = False
    """Take equal steps of at most dt0 and ignore rtol and atol."""
    max_steps: int | None = None
    """Steps after which a solve has failed."""
    data_dir: Path | None = None
    """Folder with the four original files of the data set."""
    eval_batch_size: int | None = None
    """Images per solve."""
    precision: Precision | None = None
    """Precision on GPU and TPU."""
    quiet: bool = False
    """Print notices and the result only."""
    plain: bool = False
    """Compute by lax.conv and Diffrax's own stage loop: slow, equal to rounding."""


@dataclass(frozen=True)
class TableConfig:
    """Puts runs of `mnist.py` side by side: printed, as CSV and as a picture."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    seeds: bool = False
    """Put runs that differ by their seed only into one row: means, and the standard
    deviation of the accuracy."""
    out: Path | None = None
    """New folder for table.csv and table.png; runs/TIME-table if not given."""


ADDED = tuple(
    "model blocks weights optimiser schedule crop activation time augment zero_init t1 "
    "learn_t1 kinetic jacobian steer step_control stream accumulate "
    "checkpoint_format".split()
)
"""Settings that runs of version 0.1.0 do not have. Their defaults are what was done."""


ONE_CALL = (
    "out",
    "resume",
    "quiet",
    "devices",
    "distributed",
    "coordinator_address",
    "num_processes",
    "process_id",
)
"""Settings of one call only, which are not stored."""

NOT_COMPARED = ("data_dir", "epochs", "stream", "checkpoint_format", *ONE_CALL)
"""Settings that do not decide the numbers, so that a resumed run may change them."""
