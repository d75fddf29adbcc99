"""Neural ODEs in JAX: choose how gradients are computed, and see what that costs."""

import importlib.metadata

from . import datasets as datasets, nn as nn, training as training
from ._compare import (
    compare_adjoints as compare_adjoints,
    Comparison as Comparison,
    LeafError as LeafError,
    Measurement as Measurement,
    Reference as Reference,
)
from ._solve.adjoints import Backsolve as Backsolve, Discrete as Discrete
from ._solve.events import EventSolution as EventSolution, odeint_event as odeint_event
from ._solve.failures import SolveError as SolveError
from ._solve.odeint import odeint as odeint, Solution as Solution
from ._solve.probes import value_and_grad_with_stats as value_and_grad_with_stats
from ._solve.ragged import pad_times as pad_times, union_times as union_times
from ._solve.settings import SolveSettings as SolveSettings
from ._solve.stats import SolveCounts as SolveCounts, SolveStats as SolveStats
from ._steps.classical import RK4 as RK4, RK38 as RK38
from ._steps.controller import InitialStep as InitialStep
from ._steps.pooled import PooledNorm as PooledNorm
from ._steps.runge_kutta import Unrolled as Unrolled


__version__ = importlib.metadata.version("jaxode")
