"""How a field is best laid out while it is integrated, if it says so."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PyTree

from .._solve.closures import VectorField


class SolveForm(NamedTuple):
    """A field and a state as they are best integrated, and how to get there and back.

    A field whose class has a method `solve_form(y0) -> SolveForm` is integrated in that
    form: a solve packs once at its start and unpacks once at its end.

    Attributes:
        field: The field on the packed state. Its arrays are those of the given field,
            so gradients reach them.
        pack: Turns a state into a packed one.
        unpack: The inverse of `pack`.
    """

    field: VectorField
    pack: Callable[[PyTree], PyTree]
    unpack: Callable[[PyTree], PyTree]


def solve_form(field: Any, y0: PyTree) -> SolveForm:
    """The form that `field` asks for when integrated from `y0`; as it is by default."""
    chosen = getattr(field, "solve_form", None)
    return SolveForm(field, _same, _same) if chosen is None else chosen(y0)


def _same(y: PyTree) -> PyTree:
    return y
