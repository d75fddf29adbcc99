"""The hidden channel: how counts leave a gradient that knows nothing of them.

Reverse mode returns nothing but cotangents. So a dummy input, the probe, is handed to
every solve: a `SolveCounts` of zeros that changes no value. Whatever is to be reported
is given out as the probe's cotangent (`add_to_probe`), JAX adds up the cotangents of an
input that is used several times, and the gradient with respect to the probe is the sum
over all solves. That works inside `jit`, `scan` and `vmap`, and on every platform.

The loss is the user's and has no such argument. A context carries the probe to the
solves inside it (`overriding`, read by `odeint` through `in_force`), for one trace of
the loss, and in the same way the settings that `compare_adjoints` replaces.

A function that is jitted inside the loss may have been traced before, and is then taken
from JAX's cache: without a probe, or with one that belongs to a trace long finished.
Metadata is part of the key of that cache, so a label in it makes the trace a new one.
There is no other public way to vary the key; `tests/solve/test_probes.py` fails should
this one stop working. A label that no trace of such a function has seen may serve
again, and so nothing is compiled anew where a gradient is taken eagerly, call by call.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, PyTree

from .._steps.lanes import typed_as, varying_like
from .stats import SolveCounts


def value_and_grad_with_stats(
    loss_fn: Callable, *, has_aux: bool | None = None
) -> Callable[..., tuple[Any, Any, SolveCounts]]:
    """Like `equinox.filter_value_and_grad`, with the counts of the way back.

        (loss, aux), grads, counts = value_and_grad_with_stats(loss_fn)(params, data)

    Every `odeint` and `ODEBlock` inside the loss reports, nested in `jit`, `scan` or
    `vmap` or not; the counts are summed. Put `jax.jit` around the result rather than
    into the loss: a jitted function that solves inside the loss is compiled again by
    every call from outside of `jit`.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)`, returning a scalar, or a pair of a
            scalar and anything else.
        has_aux: Whether it returns a pair; found out by looking if left out.

    Returns:
        A function with the arguments of `loss_fn`, returning its value (the pair, if
        it is one), the gradient with respect to the floating arrays in `params`, and
        the `SolveCounts` of the gradient computation.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> decay = lambda t, y, rate: -rate * y
        >>> end = lambda rate: jaxode.odeint(decay, 1.0, [0.0, 1.0], rate).ys[-1]
        >>> value, slope, back = jaxode.value_and_grad_with_stats(end)(jnp.array(2.0))
        >>> print(f"{slope:.1f}", int(back.num_solves))  # -exp(-2)
        -0.1 1
    """
    return with_counts(loss_fn, has_aux, SolveCounts.zeros)


def with_counts(
    loss_fn: Callable, has_aux: bool | None, zeros: Callable[[], SolveCounts]
) -> Callable[..., tuple[Any, Any, SolveCounts]]:
    """`value_and_grad_with_stats`, with the counts to begin with.

    In `jax.shard_map`, where these vary over the mesh, each device counts for itself.
    """

    @functools.wraps(loss_fn)
    def with_stats(params, *args, **kwargs):
        def with_probe(params_and_probe):
            params, probe = params_and_probe
            with overriding(backward_probe=probe):
                out = loss_fn(params, *args, **kwargs)
            is_pair = isinstance(out, tuple) if has_aux is None else has_aux
            loss = out[0] if is_pair else out
            return loss, out

        grad_fn = eqx.filter_value_and_grad(with_probe, has_aux=True)
        (_, out), (grads, counts) = grad_fn((params, zeros()))
        return out, grads, counts

    return with_stats


# Into the channel


def add_to_probe(
    y: PyTree[Array], probe: SolveCounts, report: SolveCounts
) -> PyTree[Array]:
    """`y`; differentiating it adds `report` to the probe's cotangent, each time.

    Where devices of a mesh report different things, their sum.
    """
    return _add(y, varying_like(probe, report), report)


@jax.custom_vjp
def _add(y, probe, report):
    del probe, report
    return y


def _add_fwd(y, probe, report):
    return y, (probe, report)


def _add_bwd(kept, y_bar):
    probe, report = kept
    return y_bar, typed_as(report, probe), jax.tree.map(jnp.zeros_like, report)


_add.defvjp(_add_fwd, _add_bwd)


class Counted(eqx.Module):
    """A vector field that reports each of its vector-Jacobian products to a probe."""

    field: Any
    probe: SolveCounts

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return add_to_probe(self.field(t, y, args), self.probe, SolveCounts.of(nfe=1))


# To every solve inside a function


@dataclasses.dataclass(frozen=True)
class InForce:
    """What solves are given besides their arguments, at trace time.

    Attributes:
        replacements: Fields of `SolveSettings` that replace the caller's.
        backward_probe: Receives the counts of the way back.
        forward_probe: Receives the counts of the forward solves.
    """

    replacements: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    backward_probe: SolveCounts | None = None
    forward_probe: SolveCounts | None = None

    @property
    def probes(self) -> list[SolveCounts]:
        """Those that there are."""
        both = (self.backward_probe, self.forward_probe)
        return [probe for probe in both if probe is not None]


@dataclasses.dataclass
class _Label:
    """What marks the traces made under one context.

    Attributes:
        text: The mark; `None` for none.
        is_clean: Whether no trace under it holds a probe, so that it may serve again.
    """

    text: str | None
    is_clean: bool = True


_current: contextvars.ContextVar[tuple[InForce, _Label]] = contextvars.ContextVar(
    "jaxode_in_force", default=(InForce(), _Label(None))
)
_numbers = itertools.count()
_clean_labels: list[_Label] = []


def in_force() -> InForce:
    """What is in force where this is called, to be used by the solve that asks."""
    found, label = _current.get()
    if any(_is_captured(probe) for probe in found.probes):
        label.is_clean = False
    return found


def _is_captured(probe: SolveCounts) -> bool:
    """Whether the probe belongs to a trace further out than a function being jitted.

    What is computed from it is then a value of the inner trace, whose tracers are of
    another kind than those of a gradient.
    """
    return type(jax.lax.neg(probe.nfe)) is not type(probe.nfe)


@contextlib.contextmanager
def overriding(**changes: Any) -> Iterator[None]:
    """Puts these fields of `InForce` in force while the body is traced.

    The others stay as they are. Nothing outlives the body.
    """
    found = dataclasses.replace(_current.get()[0], **changes)
    if found.replacements:
        # Traces hold the values that replace the caller's, whatever these are.
        label = _Label(str(next(_numbers)), is_clean=False)
    elif not found.probes:
        label = _Label(None)
    else:
        # Taken off the list, so that no context inside and no other thread has it too.
        try:
            label = _clean_labels.pop()
        except IndexError:
            label = _Label(str(next(_numbers)))
    token = _current.set((found, label))
    try:
        with set_xla_metadata(jaxode_trace=label.text):
            yield
    finally:
        _current.reset(token)
        if label.is_clean and label.text is not None:
            _clean_labels.append(label)


@contextlib.contextmanager
def without_probes() -> Iterator[None]:
    """Leaves the settings in force, and counts no solve that is traced inside.

    A solve inside the field of another would have the field close over the probe, which
    no adjoint but `direct` takes.
    """
    if not _current.get()[0].probes:
        yield
        return
    with overriding(backward_probe=None, forward_probe=None):
        yield
