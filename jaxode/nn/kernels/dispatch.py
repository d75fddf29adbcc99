"""Where it is decided which form runs: by number of channels and by platform.

Two decisions, at two times:

- The layout of a state is a matter of array shapes, so it is fixed while tracing, when
  the platform is not known. `prefers_batch_last` asks `jax.default_backend()`, where
  the program will run unless the caller says otherwise. A wrong guess costs speed only:
  every form is right on every platform.
- Within a batch-last computation, `by_platform` chooses while lowering, by
  `jax.lax.platform_dependent`, for the platform that is then known.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

import jax
from jax import lax


P = ParamSpec("P")
R = TypeVar("R")

# Up to this width a convolution is written out as multiply-adds on a CPU: the widest
# measured. `lax.conv` in a loop took 5 (2 channels) to 38 (64 channels) times as long.
FEW_CHANNELS = 64

# From this width on, and up to this number of pixels, a convolution is faster as matrix
# products over tiles: at 16 channels by 1.4 times, at 64 by 2.1, its gradient by 2.6
# and 2.4. At 8 channels there is little to gain; larger images were not measured.
TILES_FROM = 16
TILES_UP_TO = 6 * 6


def prefers_batch_last(channels: int) -> bool:
    """Whether a state of so many channels is best laid out batch-last.

    Args:
        channels: Channels of the state.

    Returns:
        True for up to `FEW_CHANNELS` on a CPU; False where `lax.conv` is to run.
    """
    return channels <= FEW_CHANNELS and jax.default_backend() == "cpu"


def prefers_tiles(kernels: Sequence[int], pixels: int) -> bool:
    """Whether a 3x3 convolution is best done in tiles (see `winograd`).

    Args:
        kernels: Shape of its kernels, output channel first.
        pixels: Of an image.

    Returns:
        True for many channels and few pixels on a CPU.
    """
    fits = min(kernels[:2]) >= TILES_FROM and pixels <= TILES_UP_TO
    return fits and jax.default_backend() == "cpu"


def by_platform(
    written_out: Callable[P, R], general: Callable[P, R], channels: int
) -> Callable[P, R]:
    """Chooses between two forms of one function of arrays.

    Args:
        written_out: Form for few channels on a CPU.
        general: Form for everything else.
        channels: Width of the convolution.

    Returns:
        The function that takes the right form.
    """
    if channels > FEW_CHANNELS:
        return general

    def choose(*args: P.args, **kwargs: P.kwargs) -> R:
        return lax.platform_dependent(
            *args,
            cpu=partial(written_out, **kwargs),
            default=partial(general, **kwargs),
        )

    return choose
