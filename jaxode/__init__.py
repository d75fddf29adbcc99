"""Neural ODEs in JAX: choose how gradients are computed, and see what that costs."""

import importlib.metadata

from ._adjoint import Backsolve as Backsolve
from ._batches import epoch_order as epoch_order, random_shift as random_shift
from ._block import ODEBlock as ODEBlock
from ._checkpoint import (
    CheckpointError as CheckpointError,
    load as load,
    load_header as load_header,
    save as save,
    write_atomically as write_atomically,
)
from ._compare import (
    Cell as Cell,
    compare_adjoints as compare_adjoints,
    Comparison as Comparison,
    LeafError as LeafError,
    Reference as Reference,
)
from ._controller import FirstStep as FirstStep
from ._data import (
    DataError as DataError,
    Dataset as Dataset,
    load_mnist as load_mnist,
    Split as Split,
)
from ._errors import SolveError as SolveError
from ._field import ConvField as ConvField
from ._gradient import value_and_grad_with_stats as value_and_grad_with_stats
from ._model import ODENet as ODENet
from ._objective import cross_entropy as cross_entropy, Metrics as Metrics
from ._resnet import ResNet as ResNet
from ._solve import odeint as odeint, Solution as Solution
from ._solver import RK4 as RK4, RK38 as RK38, StraightLine as StraightLine
from ._stats import BackwardStats as BackwardStats, SolveStats as SolveStats
from ._torch import from_torch as from_torch, to_torch as to_torch
from ._train import (
    evaluate as evaluate,
    MAX_SKIPPED_IN_A_ROW as MAX_SKIPPED_IN_A_ROW,
    train_step as train_step,
    train_steps as train_steps,
    TrainData as TrainData,
    TrainState as TrainState,
)


__version__ = importlib.metadata.version("jaxode")
