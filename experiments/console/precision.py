"""Double precision within a block: `with enable_x64(True): ...`."""

from typing import Any

import jax
import jax.experimental


if hasattr(jax, "enable_x64"):  # since JAX 0.8
    enable_x64: Any = jax.enable_x64
else:
    enable_x64 = getattr(jax.experimental, "enable_x64")  # noqa: B009, for pyright
