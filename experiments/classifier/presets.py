"""What takes the place of the settings that are not given. Free of JAX, as `config`."""

import dataclasses
from typing import Any

from classifier.config import Config


_OF_THE_POST: dict[str, Any] = dict(
    channels=6, rtol=0.1, atol=0.1, max_steps=64, eval_batch_size=50
)
_OF_THE_PAPER: dict[str, Any] = dict(
    channels=64, rtol=1e-3, atol=1e-3, max_steps=1000, eval_batch_size=1000
)

# One step of three stages, where the tolerance lets it pass.
_IN_FEW_CALLS: dict[str, Any] = dict(
    solver="bosh3",
    dt0=1.0,
    batch_size=32,
    optimiser="adam",
    schedule="linear",
    clip_norm=0.0,
)
_OWN_RECIPE: dict[str, Any] = _IN_FEW_CALLS | dict(lr=0.01, speed_decay=1e-3)
# 1,000 images of 64 channels leave a core's cache, and take a quarter longer.
_SCORED_IN_CACHE: dict[str, Any] = dict(eval_batch_size=100)

PRESETS = {
    "default": Config(epochs=16, decay_epochs=16.0, warmup_epochs=0.5, **_OWN_RECIPE),
    "fast": Config(
        preset="fast",
        epochs=3,
        decay_epochs=3.0,
        warmup_epochs=0.2,
        max_steps=16,
        **_OWN_RECIPE,
    ),
    "post": Config(
        preset="post",
        epochs=10,
        batch_size=16,
        lr=1e-3,
        momentum=0.9,
        nesterov=False,
        clip_norm=0.0,
        speed_decay=0.0,
        warmup_epochs=0.0,
        decay_epochs=0.0,
        shift=0,
    ),
    "paper": Config(
        preset="paper",
        model="paper",
        epochs=160,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        nesterov=False,
        clip_norm=0.0,
        speed_decay=0.0,
        warmup_epochs=0.0,
        decay_epochs=None,
        schedule="drops",
        shift=0,
        crop=4,
        **_OF_THE_PAPER,
    ),
    "paper-fast": Config(
        preset="paper-fast",
        model="paper",
        epochs=4,
        decay_epochs=4.0,
        warmup_epochs=0.1,
        lr=0.004,
        speed_decay=0.1,
        shift=0,
        crop=4,
        **(_OF_THE_PAPER | _IN_FEW_CALLS | _SCORED_IN_CACHE),
    ),
}
"""Complete settings; what is given on the command line replaces single ones."""

MODEL_SETTINGS: dict[str, dict[str, Any]] = {
    "odenet": _OF_THE_POST,
    "residual": _OF_THE_POST,
    "rknet": _OF_THE_POST | {"solver": "rk4"},
    "none": _OF_THE_POST,
    "paper": _OF_THE_PAPER,
    "paper-residual": _OF_THE_PAPER,
    "paper-rknet": _OF_THE_PAPER | {"solver": "rk4"},
    "paper-none": _OF_THE_PAPER,
}
"""What takes the place of a preset's settings for a model that is not the preset's."""


BACKSOLVE_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"speed_decay": 0.1},
    "fast": {"speed_decay": 0.1},
}
"""What takes the place of a preset's settings where the field is solved backwards too.

That asks for a slower field. With the preset's own decay the backward solve misses y(0)
by more than its length within an epoch, and the gradient is worth nothing.
"""


def defaults(
    preset: str, model: str | None = None, adjoint: str | None = None
) -> Config:
    """The settings that are not given; unknown names are left for the parser."""
    chosen = PRESETS.get(preset, PRESETS["default"])
    if adjoint == "backsolve":
        chosen = dataclasses.replace(chosen, **BACKSOLVE_SETTINGS.get(preset, {}))
    if model is None or model == chosen.model:
        return chosen
    # A model of another kind, whose own width and tolerance a preset does not know.
    return dataclasses.replace(chosen, **MODEL_SETTINGS.get(model, {}))
