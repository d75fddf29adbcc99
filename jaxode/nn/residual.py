"""The ODE block's discrete twin: a classifier made of tied residual steps."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from .._solve.stats import SolveStats
from .field import ConvField
from .layers import Head, Stem
from .paper_fields import ResidualField
from .paper_layers import PaperHead, PaperStem
from .shapes import Images, Logits, State
from .solve_form import solve_form


class ResidualNet(eqx.Module):
    """Tied residual steps: `ODENet` with `y <- y + step * field(y)` for its block.

    Tied steps share one field; their default length is 1 / num_blocks, which makes them
    Euler's method on [0, 1]. Untied ones have a field each and length 1, a residual
    network as commonly written. With no blocks, stem and head are all there is.

    Attributes:
        stem: Images to initial state.
        field: The field; for untied blocks its arrays have the block as leading axis;
            `None` without blocks.
        head: Final state to logits.
        num_blocks: Number of blocks.
        step: What the field is multiplied by.
        tied: Whether the blocks share one field.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> twin = jaxode.nn.ResidualNet(6, key=jax.random.key(0))
        >>> twin(jnp.zeros((2, 28, 28, 1))).shape
        (2, 10)
    """

    parts: ClassVar[Any] = (Stem, ConvField, Head)

    stem: Stem | PaperStem
    field: ConvField | ResidualField | None
    head: Head | PaperHead
    num_blocks: int = eqx.field(static=True)
    step: float = eqx.field(static=True)
    tied: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: int = 6,
        *,
        key: Key[Array, ""],
        num_blocks: int = 6,
        tied: bool = True,
        step: float | None = None,
        activation: str = "relu",
        plain: bool = False,
    ):
        """Draws the weights from the same distributions as `ODENet`.

        Args:
            channels: As in `ODENet`.
            key: Randomness of the weights. With tied blocks they are those that
                `ODENet` draws from the same key.
            num_blocks: At least 0.
            tied: See the class.
            step: See the class.
            activation: As in `ConvField`.
            plain: As in `ODENet`; without blocks it has no effect.

        Raises:
            ValueError: for a negative number of blocks, and as `ConvField` does.
        """
        if num_blocks < 0:
            raise ValueError(
                f"num_blocks={num_blocks} must be at least 0; pass num_blocks=6."
            )
        stem_key, field_key, head_key = jax.random.split(key, 3)

        stem, field, head = self.parts

        def make_field(key):
            return field(channels, key=key, plain=plain, activation=activation)

        if not num_blocks:
            self.field = None
        elif tied:
            self.field = make_field(field_key)
        else:
            keys = jax.random.split(field_key, num_blocks)
            self.field = eqx.filter_vmap(make_field)(keys)
        self.stem = stem(channels, key=stem_key)
        self.head = head(channels, key=head_key)
        self.num_blocks = num_blocks
        default_step = 1 / max(num_blocks, 1) if tied else 1.0
        self.step = default_step if step is None else float(step)
        self.tied = tied

    def __call__(self, images: Images, *, key: Any = None) -> Logits:
        """Classifies a batch; arguments and result are those of `ODENet`."""
        del key
        return self.with_stats(images)[0]

    def with_stats(self, images: Images) -> tuple[Logits, SolveStats]:
        """Classifies a batch, and counts each step as one of an ODE solve."""
        # Without blocks nothing says so, and the forms are equal to rounding.
        plain = self.field is not None and self.field.plain
        y1 = self._blocks(self.stem(images, plain=plain))
        count = jnp.asarray(self.num_blocks, jnp.int32)
        stats = SolveStats(
            nfe=count,
            num_steps=count,
            num_accepted_steps=count,
            num_rejected_steps=jnp.zeros_like(count),
            last_step=jnp.asarray(self.step, y1.dtype),
            success=jnp.asarray(True),
        )
        return self.head(y1, plain=plain), stats

    def _blocks(self, y0: State) -> State:
        if self.field is None:
            return y0
        arrays, static = eqx.partition(self.field, eqx.is_array)
        form = solve_form(self.field, y0)

        def block(y, own_arrays):
            field = eqx.combine(arrays if self.tied else own_arrays, static)
            dy = solve_form(field, y0).field(None, y, None)
            return y + self.step * dy, None

        # A scan compiles one block, whatever their number.
        over = None if self.tied else arrays
        y1, _ = jax.lax.scan(block, form.pack(y0), over, length=self.num_blocks)
        return form.unpack(y1)
