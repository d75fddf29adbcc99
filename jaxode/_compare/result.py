"""The outcome of a comparison, and the forms it can be had in."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

from .measurement import Measurement, Reference
from .plot import draw
from .table import table
from .verdict import verdict


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare_adjoints` found. Prints as a table with the verdict below it.

    Attributes:
        cells: Solver by solver, from the first tolerance to the last, all adjoints.
        reference: The gradient that they are held against.
        device: Where it ran.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> loss_fn = lambda p: jaxode.odeint(
        ...     lambda t, y, p: -p * y, jnp.ones(()), [0.0, 1.0], p
        ... ).ys[-1]
        >>> table = jaxode.compare_adjoints(
        ...     loss_fn, jnp.array(2.0), adjoints=("discrete",), rtols=(1e-3,)
        ... )
        >>> isinstance(table, jaxode.Comparison), "adjoint" in str(table)
        (True, True)
        >>> sorted(table.to_dict())
        ['cells', 'device', 'reference', 'verdict']
    """

    cells: tuple[Measurement, ...]
    reference: Reference
    device: str

    @property
    def verdict(self) -> str:
        """What the numbers say, in words."""
        return verdict(self.cells, self.reference)

    def __str__(self) -> str:
        return f"{table(self.cells)}\n\n{self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it: numbers that are not finite become `None`."""
        return _finite(dataclasses.asdict(self) | {"verdict": self.verdict})

    def to_csv(self, path: str | Path) -> None:
        """Writes one line for each cell, without the errors of single arrays.

        Raises:
            FileExistsError: where there is such a file.
        """
        names = [
            f.name for f in dataclasses.fields(Measurement) if f.name != "leaf_errors"
        ]
        with Path(path).open("x", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(dataclasses.asdict(cell) for cell in self.cells)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws gradient error against tolerance and seconds, and memory.

        Args:
            path: Image to write, replacing any that is there; `None` for none.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: where matplotlib is missing.
        """
        return draw(self.cells, self.reference, path)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
