"""Where the numbers of a run come from: those of this call, and of all before it."""

import json
from collections.abc import Callable
from typing import Any

from classifier.records import Part
from console.provenance import DECIDE_ROUNDING, provenance


def origin(
    about: dict[str, Any], part: Part, notice: Callable[[str], None]
) -> dict[str, Any]:
    """What `config.json` is to say of it.

    Args:
        about: The content of the run's `config.json`; empty for a new run.
        part: What a resumed run goes on with.
        notice: Called with a line for people where this part of a run is not on what
            the part before it was on.
    """
    here = provenance()
    if not about:
        return here
    parts = [*about.get("resumed", [])]
    before = parts[-1] if parts else about
    differing = [
        f"{name} {json.dumps(before[name])}, now {json.dumps(here[name])}"
        for name in DECIDE_ROUNDING
        if name in before and before[name] != here[name]
    ]
    if differing:
        notice(
            "This part of the run is not on what the part before it was on, so it "
            "agrees with an uninterrupted run to rounding and not in every bit:\n"
            + "\n".join(differing)
        )
    where = {"epoch": part.epoch, "row": part.row}
    return {"resumed": [*parts, {**where, **here}]}
