"""The MNIST networks of the ODE-Net paper, as they were released."""

from typing import Any, ClassVar

from jaxtyping import Array, Key

from .odenet import ODENet
from .paper_fields import PaperField, ResidualField
from .paper_layers import PaperHead, PaperStem
from .residual import ResidualNet


class PaperNet(ODENet):
    """The paper's MNIST classifier: strided stem, ODE block on times 0 to 1, head.

    With 64 channels the network has 208,266 parameters. It takes uint8 images, or
    floats normalised to [0, 1] as PyTorch's `ToTensor` gives them, and is otherwise
    used as an `ODENet`.

    Attributes:
        stem: Images to y(0), a `PaperStem`.
        block: y(0) to y(1), with a `PaperField`.
        head: y(1) to logits, a `PaperHead`.

    Reference:
        Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, section 3, as
        released with torchdiffeq (examples/odenet_mnist.py).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.PaperNet(8, key=jax.random.key(0))
        >>> net(jnp.zeros((1, 28, 28, 1), jnp.uint8)).shape
        (1, 10)
    """

    parts: ClassVar[Any] = (PaperStem, PaperField, PaperHead)

    def __init__(self, channels: int = 64, *, key: Key[Array, ""], **settings: Any):
        """Draws the weights from PyTorch's default distributions.

        Args:
            channels: Channels of the state: at most 32, or a multiple of 32.
            key: Randomness of the weights.
            **settings: As in `ODENet`. By default the tolerances are the released ones,
                `rtol=1e-3` and `atol=1e-3`, with `max_steps=1000`.

        Raises:
            ValueError: as `ODENet` does.
        """
        usual: dict[str, Any] = dict(rtol=1e-3, atol=1e-3, max_steps=1000)
        super().__init__(channels, key=key, **(usual | settings))


class PaperResidualNet(ResidualNet):
    """The ResNet that the paper compares with: the same stem and head, residual blocks.

    With 64 channels and six blocks of their own weights it has 576,778 parameters, and
    without blocks 132,874. Used as a `ResidualNet`, on images as for `PaperNet`.

    Attributes:
        stem: Images to initial state, a `PaperStem`.
        field: What a block adds, a `ResidualField`; see `ResidualNet`.
        head: Final state to logits, a `PaperHead`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> net = jaxode.nn.PaperResidualNet(8, key=jax.random.key(0))
        >>> net(jnp.zeros((1, 28, 28, 1), jnp.uint8)).shape
        (1, 10)
    """

    parts: ClassVar[Any] = (PaperStem, ResidualField, PaperHead)

    def __init__(
        self,
        channels: int = 64,
        *,
        key: Key[Array, ""],
        num_blocks: int = 6,
        tied: bool = False,
        **settings: Any,
    ):
        """Draws the weights; arguments and errors are those of `ResidualNet`."""
        super().__init__(
            channels, key=key, num_blocks=num_blocks, tied=tied, **settings
        )
