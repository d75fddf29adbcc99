"""Settings that reach every solve inside a function which knows nothing of them.

`value_and_grad_with_stats` puts a probe into each `odeint` inside a user's loss, and
`compare_adjoints` other solvers and adjoints. Both hold for one trace of that loss
only, so nothing of it outlives the call or leaks into compiled code.
"""

import contextlib
import contextvars
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from jax.experimental.xla_metadata import set_xla_metadata

from .stats import BackwardStats, ForwardCounts


@dataclasses.dataclass(frozen=True)
class Overrides:
    """Replacements for arguments of `odeint`, `None` to leave one as it is.

    Attributes:
        settings: Keyword arguments of `odeint` that replace the caller's.
        probe: The probe of every solve that has none of its own.
        forward_probe: Receives the counts of every forward solve.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    probe: BackwardStats | None = None
    forward_probe: ForwardCounts | None = None


_current: contextvars.ContextVar[Overrides | None] = contextvars.ContextVar(
    "jaxode_overrides", default=None
)
_fresh = itertools.count()


def current_overrides() -> Overrides:
    """What is in force where this is called, at trace time."""
    return _current.get() or Overrides()


@contextlib.contextmanager
def without_probes() -> Iterator[None]:
    """Leaves the settings in force, and counts no solve that is traced inside.

    A solve inside the field of another would have the field close over the probe, which
    no adjoint but `direct` takes.
    """
    current = current_overrides()
    if current.probe is None and current.forward_probe is None:
        yield
        return
    with overriding(Overrides(current.settings)):
        yield


@contextlib.contextmanager
def overriding(overrides: Overrides) -> Iterator[None]:
    """Puts `overrides` in force while the body is traced.

    A function inside that is jitted may have been traced before, without them, and
    would be taken from JAX's cache. Metadata is part of that cache's key, so a number
    that was never used makes each trace a new one. There is no other public way to
    vary the key; `tests/test_context.py` fails should this one stop working.
    """
    token = _current.set(overrides)
    try:
        with set_xla_metadata(jaxode_trace=str(next(_fresh))):
            yield
    finally:
        _current.reset(token)
