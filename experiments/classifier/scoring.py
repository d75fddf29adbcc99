"""Scoring the images that are kept for it, on the devices of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxode
from classifier.networks import Network


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how.

    Attributes:
        function: `jaxode.training.evaluate` or, on several devices, the one that is fed
            each device's part.
        images: Its arguments beside the model.
        options: Its keyword arguments.
    """

    function: Any
    images: tuple[Any, ...]
    options: dict[str, Any]

    def compile(self, model: Network) -> Callable[[Network], jaxode.training.Metrics]:
        """Compiles without running, so that either can be timed."""
        traced = self.function.lower(model, *self.images, **self.options)
        program = traced.compile()
        return lambda model: program(model, *self.images, **self.options)
