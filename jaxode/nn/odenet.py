"""The classifier: stem, ODE block, head."""

from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from .._solve.stats import SolveStats
from .block import ODEBlock
from .field import ConvField
from .layers import Head, Stem
from .paper_fields import TimeConvField
from .paper_layers import PaperHead, PaperStem
from .regularise import Regularisers
from .shapes import Images, Logits, State
from .solve_form import solve_form


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
        augment: Channels of zeros that y(0) has beside the stem's.
        regularisers: What is added in training; see `train_with_stats`.

    Reference:
        Dupont, Doucet & Teh 2019, arXiv:1904.01681, for `augment`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.ODENet(6, key=jax.random.key(0))
        >>> logits, stats = net.with_stats(jnp.zeros((2, 28, 28, 1)))
        >>> logits.shape, bool(stats.success)
        ((2, 10), True)
    """

    parts: ClassVar[Any] = (Stem, ConvField, Head)

    stem: Stem | PaperStem
    block: ODEBlock
    head: Head | PaperHead
    augment: int = eqx.field(static=True)
    regularisers: Regularisers = eqx.field(static=True)

    def __init__(
        self,
        channels: int = 6,
        *,
        key: Key[Array, ""],
        activation: str = "relu",
        plain: bool = False,
        per_sample: bool = False,
        time: bool = False,
        augment: int = 0,
        zero_init: bool = False,
        regularisers: Regularisers | None = None,
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
            time: Whether the field's convolution has the time as an input channel. The
                field of `PaperNet` always has.
            augment: Channels of zeros to add to the state; with them it must have a
                number that `channels` may have.
            zero_init: Whether the scale of the field's last normalisation starts from
                zero, so that the block does nothing at first. For `PaperNet`, whose
                last normalisation is not its first as well.
            regularisers: Running costs and a random end time for training.
            **settings: As in `ODEBlock`. By default the tolerances are the post's,
                `rtol=0.1` and `atol=0.1`, with `max_steps=64`; finer ones need more.

        Raises:
            ValueError: as `ConvField` and `ODEBlock` do, and for `zero_init` where it
                cannot be had.
        """
        stem_key, field_key, head_key = jax.random.split(key, 3)
        stem, field, head = self.parts
        field: Any  # whose classes draw their weights alike
        if time and field is ConvField:
            field = TimeConvField
        width = channels + augment
        made = field(width, key=field_key, plain=plain, activation=activation)
        made = from_zero(made) if zero_init else made
        usual: dict[str, Any] = dict(rtol=0.1, atol=0.1, max_steps=64, unroll=not plain)
        self.block = ODEBlock(made, per_sample=per_sample, **(usual | settings))
        self.stem = stem(channels, key=stem_key)
        self.head = head(width, key=head_key)
        self.augment = augment
        self.regularisers = regularisers or Regularisers()

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
        solution = self.block.solve(self._start(images))
        return self._end(solution), solution.stats

    def train_with_stats(
        self, images: Images, key: Key[Array, ""]
    ) -> tuple[Logits, Float[Array, ""], SolveStats]:
        """As `with_stats`, as it is to be trained: with its regularisers.

        Args:
            images: As when called, and so are the errors.
            key: Randomness of the end time, and of the noise of a running cost.

        Returns:
            The logits, what is to be added to the loss, and the statistics.
        """
        return self._train(images, key, jnp.arange(len(images)), None, len(images))

    def train_part_with_stats(
        self,
        images: Images,
        key: Key[Array, ""],
        places: Int[Array, " batch"],
        counts: Bool[Array, " batch"],
        samples: int,
    ) -> tuple[Logits, Float[Array, ""], SolveStats]:
        """As `train_with_stats`, of some images of a batch.

        Noise is drawn for an image's place in the batch, so it does not matter how this
        is divided.

        Args:
            images: As when called, and so are the errors.
            key: That of the whole batch.
            places: Of each image in the batch.
            counts: Which of the images count. The others take part in the solve only.
            samples: Images of the batch.

        Returns:
            The logits; what these images contribute to what is to be added to the loss
            of the batch, so that all parts together come to that; and the statistics.
        """
        return self._train(images, key, places, counts, samples)

    def _train(
        self,
        images: Images,
        key: Key[Array, ""],
        places: Array,
        counts: Array | None,
        samples: int,
    ) -> tuple[Logits, Float[Array, ""], SolveStats]:
        chosen, y0, block = self.regularisers, self._start(images), self.block
        time_key, noise_key = jax.random.split(key)
        t1, cost = None, None
        if chosen.steer:
            end = block.t1 if block.end_time is None else block.end_time
            t1 = chosen.end_time(time_key, end)
        if chosen.has_cost:
            size = y0[0].size * samples
            if block.per_sample:
                # Costs are by image here, from which those that count are chosen below.
                cost = chosen.of_each(noise_key, y0[:1], size)
            else:
                pack = solve_form(block.field, y0).pack
                cost = chosen.of_rows(noise_key, y0, places, counts, size, pack)
        solution = block.solve(y0, t1=t1, cost=cost)
        penalty = jnp.zeros(()) if cost is None else _total(solution.cost, counts)
        return self._end(solution), penalty, solution.stats

    @property
    def _is_plain(self) -> bool:
        # Fields of one's own need not know the word.
        return getattr(self.block.field, "plain", False)

    def _start(self, images: Images) -> State:
        y0 = self.stem(images, plain=self._is_plain)
        if not self.augment:
            return y0
        return jnp.pad(y0, ((0, 0), (0, self.augment), (0, 0), (0, 0)))

    def _end(self, solution: Any) -> Logits:
        return self.head(solution.ys[-1], plain=self._is_plain)

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


def from_zero(field: Any) -> Any:
    """A field whose last normalisation starts with a scale of zeros.

    Raises:
        ValueError: where that normalisation is used elsewhere too.
    """
    if not hasattr(field, "norm3"):
        raise ValueError(
            "zero_init=True needs a field whose last normalisation is not its first as "
            f"well; a {type(field).__name__} has one for both. Take jaxode.nn.PaperNet."
        )
    at = lambda f: f.norm3.weight
    return eqx.tree_at(at, field, jnp.zeros_like(at(field)))


def _total(cost: Any, counts: Array | None) -> Float[Array, ""]:
    """The integral at the end; with steps for each image, over those that count."""
    end = cost[..., -1]
    return jnp.sum(end if counts is None or not end.ndim else jnp.where(counts, end, 0))
