"""Neural ODEs in JAX: choose how gradients are computed, and see what that costs."""

import importlib.metadata

from ._adjoint import Backsolve as Backsolve
from ._controller import FirstStep as FirstStep
from ._errors import SolveError as SolveError
from ._gradient import value_and_grad_with_stats as value_and_grad_with_stats
from ._solve import odeint as odeint, Solution as Solution
from ._solver import RK4 as RK4, RK38 as RK38, StraightLine as StraightLine
from ._stats import BackwardStats as BackwardStats, SolveStats as SolveStats


__version__ = importlib.metadata.version("jaxode")
