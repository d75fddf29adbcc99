"""What each way of taking a gradient costs, and how far off it is, on a given loss."""

from .compare import compare_adjoints as compare_adjoints
from .measurement import (
    LeafError as LeafError,
    Measurement as Measurement,
    Reference as Reference,
)
from .result import Comparison as Comparison
