"""What each way of taking a gradient costs, and how far off it is, on a given loss."""

from ._cell import Cell as Cell, LeafError as LeafError, Reference as Reference
from ._compare import compare_adjoints as compare_adjoints
from ._result import Comparison as Comparison
