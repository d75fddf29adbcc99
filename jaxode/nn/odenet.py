"""The classifier: stem, ODE block, head."""

from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Key

from .._solve.stats import SolveStats
from .block import ODEBlock
from .field import ConvField
from .layers import Head, Stem
from .paper_layers import PaperHead, PaperStem
from .shapes import Images, Logits


_Net = TypeVar("_Net", bound="ODENet")


class ODENet(eqx.Module):
    """The first post's MNIST classifier: stem, ODE block on times 0 to 1, head.

    The post is "A Simple Introduction to Neural ODEs". With 6 channels the network has
    10,564 parameters. Weights start from PyTorch's default distributions. See
    `ODEBlock` for what a batch being ONE ODE means.

    Attributes:
        stem: Images to y(0).
        block: y(0) to y(1), with a `ConvField`.
        head: y(1) to logits.
    """

    parts: ClassVar[Any] = (Stem, ConvField, Head)

    stem: Stem | PaperStem
    block: ODEBlock
    head: Head | PaperHead

    def __init__(
        self,
        channels: int = 6,
        *,
        key: Key[Array, ""],
        activation: str = "relu",
        plain: bool = False,
        per_sample: bool = False,
        **settings: Any,
    ):
        """Draws the weights.

        Args:
            channels: Channels of the state, at most 32 or a multiple of 32. The post
                suggests 2 for weak machines.
            key: Randomness of the weights.
            activation: As in `ConvField`.
            plain: Whether to compute everything in the plainest way, the solver's loop
                over stages included. For comparison; the logits are equal to rounding.
            per_sample: Whether each image is an ODE of its own.
            **settings: As in `ODEBlock`. By default the tolerances are the post's,
                `rtol=0.1` and `atol=0.1`, with `max_steps=64`; finer ones need more.

        Raises:
            ValueError: as `ConvField` and `ODEBlock` do.
        """
        stem_key, field_key, head_key = jax.random.split(key, 3)
        stem, field, head = self.parts
        made = field(channels, key=field_key, plain=plain, activation=activation)
        usual = dict(rtol=0.1, atol=0.1, max_steps=64, unroll=not plain)
        self.block = ODEBlock(made, per_sample=per_sample, **(usual | settings))
        self.stem = stem(channels, key=stem_key)
        self.head = head(channels, key=head_key)

    def __call__(self, images: Images, *, key: Any = None) -> Logits:
        """Classifies a batch. Never raises on a failed solve: see `with_stats`.

        Args:
            images: `(batch, 28, 28, 1)`; uint8, or floats already normalised to
                [-1, 1].
            key: Not used; `equinox.nn.Sequential` hands one to every layer.

        Returns:
            Logits `(batch, 10)`, in the precision of the weights.

        Raises:
            TypeError: for images that are neither uint8 nor floating.
            ValueError: for images of another shape.
        """
        del key
        return self.with_stats(images)[0]

    def with_stats(self, images: Images) -> tuple[Logits, SolveStats]:
        """The logits of a batch, and the statistics of its solve.

        Args:
            images: As when called, and so are the errors.
        """
        # Fields of one's own need not know the word.
        plain = getattr(self.block.field, "plain", False)
        solution = self.block.solve(self.stem(images, plain=plain))
        return self.head(solution.ys[-1], plain=plain), solution.stats

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
