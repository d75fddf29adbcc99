"""The classifier: stem, ODE block, head."""

from typing import Any, TypeVar

import diffrax
import equinox as eqx
import jax
from jaxtyping import Array, Key

from .._solve.adjoints import Adjoint
from .._solve.stats import BackwardStats, SolveStats
from .block import ODEBlock
from .field import ConvField
from .layers import Head, Stem
from .shapes import Images, Logits


_Net = TypeVar("_Net", bound="ODENet")


class ODENet(eqx.Module):
    """The first post's MNIST classifier: stem, ODE block on times 0 to 1, head.

    With 6 channels it has 10,564 parameters. Weights start from PyTorch's default
    distributions. See `ODEBlock` for what a batch being ONE ODE means.

    Attributes:
        stem: Images to y(0).
        block: y(0) to y(1), with a `ConvField`.
        head: y(1) to logits.
    """

    stem: Stem
    block: ODEBlock
    head: Head

    def __init__(
        self,
        channels: int = 6,
        *,
        key: Key[Array, ""],
        solver: diffrax.AbstractSolver | None = None,
        adjoint: Adjoint = "checkpoint",
        rtol: float | None = 0.1,
        atol: float | None = 0.1,
        dt0: float | None = None,
        max_steps: int | None = 64,
        per_sample: bool = False,
        activation: str = "relu",
        plain: bool = False,
    ):
        """Draws the weights.

        Args:
            channels: Channels of the state, at most 32 or a multiple of 32. The post
                suggests 2 for weak machines.
            key: Randomness of the weights.
            solver: As in `ODEBlock`, and so are the next six. The defaults of the
                tolerances are the post's.
            adjoint: How gradients are taken.
            rtol: Relative tolerance, or `None` for fixed steps.
            atol: Absolute tolerance.
            dt0: First step, or the length of fixed steps.
            max_steps: Steps tried at most. Finer tolerances need more.
            per_sample: Whether each image is an ODE of its own.
            activation: As in `ConvField`.
            plain: Whether to compute everything in the plainest way, the solver's loop
                over stages included. For comparison; the logits are equal to rounding.

        Raises:
            ValueError: as `ConvField` and `ODEBlock` do.
        """
        stem_key, field_key, head_key = jax.random.split(key, 3)
        field = ConvField(channels, key=field_key, plain=plain, activation=activation)
        self.block = ODEBlock(
            field,
            solver=solver,
            adjoint=adjoint,
            rtol=rtol,
            atol=atol,
            dt0=dt0,
            max_steps=max_steps,
            per_sample=per_sample,
            unroll=not plain,
        )
        self.stem = Stem(channels, key=stem_key, plain=plain)
        self.head = Head(channels, key=head_key, plain=plain)

    def __call__(
        self, images: Images, *, probe: BackwardStats | None = None
    ) -> tuple[Logits, SolveStats]:
        """Classifies a batch. Never raises on a failed solve: see `stats.success`.

        Args:
            images: `(batch, 28, 28, 1)`; uint8, or floats already normalised to
                [-1, 1].
            probe: As in `odeint`.

        Returns:
            Logits `(batch, 10)`, in the precision of the weights, and the statistics
            of the solve.

        Raises:
            TypeError: for images that are neither uint8 nor floating.
            ValueError: for images of another shape.
        """
        y1, stats = self.block(self.stem(images), probe=probe)
        return self.head(y1), stats

    def with_solve(self: _Net, **settings: Any) -> _Net:
        """The same weights under other settings of the solve; nothing is copied.

            finer = model.with_solve(solver=diffrax.Tsit5(), rtol=1e-4, max_steps=1000)

        Args:
            **settings: Any setting of `ODEBlock`.

        Raises:
            ValueError: for a name that is no setting, and whatever `ODEBlock` raises.
        """
        block = self.block.with_solve(**settings)
        return eqx.tree_at(lambda net: net.block, self, block)
