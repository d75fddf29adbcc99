"""How far a state can be solved backwards, and what that does to the gradient."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxode
from adjoint_study.config import Sizes
from adjoint_study.fields import exact_gradient, PROBLEMS, weighted_sum
from adjoint_study.gradients import attempt
from classifier.records import finite
from console.precision import enable_x64
from console.progress import Reporter


NETWORK = "trained network"
_ANALYTIC_STEPS = 16_384
_TRUTH_STEPS = 65_536
_TRUTH_TOLERANCE = 1e-9


class Gradients:
    """Gradients of a loss of y(t1), with respect to the field and the initial state.

    Attributes:
        make: Field, initial state and whatever else the loss takes, in a precision.
        loss_fn: `loss_fn(y1, rest)`.
        max_steps: Bound on the steps of a solve.
    """

    def __init__(
        self,
        make: Callable[[Any], tuple[tuple[Any, Any], Any]],
        loss_fn: Callable[[Any, Any], Any],
        max_steps: int,
    ):
        self.make = make
        self.loss_fn = loss_fn
        self.max_steps = max_steps
        self._compiled: dict[Any, Callable] = {}

    def __call__(
        self,
        adjoint: Any,
        dtype: str,
        tolerance: float,
        t1: float,
        max_steps: int | None = None,
    ) -> tuple[Any, jaxode.SolveStats, jaxode.SolveCounts]:
        """The gradient in some precision, with counts, all on the host.

        Horizon and tolerance are no part of the compiled program.
        """
        steps = self.max_steps if max_steps is None else max_steps
        with enable_x64(dtype == "float64"):
            key = adjoint, dtype, steps
            if key not in self._compiled:
                self._compiled[key] = self._compile(adjoint, steps)
            compute = self._compiled[key]
            numbers = [jnp.asarray(x, dtype) for x in (t1, tolerance)]
            params, rest = self.make(np.dtype(dtype))
            (_, forward), gradient, backward = compute(params, rest, *numbers)
            return jax.device_get((gradient, forward, backward))

    def _compile(self, adjoint: Any, max_steps: int) -> Callable:
        def loss_fn(params, rest, t1, tolerance):
            field, y0 = params
            solution = jaxode.odeint(
                field,
                y0,
                jnp.stack([jnp.zeros_like(t1), t1]),
                adjoint=adjoint,
                rtol=tolerance,
                atol=tolerance,
                max_steps=max_steps,
                throw=False,
            )
            return self.loss_fn(solution.ys[-1], rest), solution.stats

        return eqx.filter_jit(jaxode.value_and_grad_with_stats(loss_fn, has_aux=True))


def horizon_records(
    adjoints: tuple[str, ...],
    sizes: Sizes,
    model: jaxode.nn.ODENet,
    dataset: jaxode.datasets.Dataset,
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    """Errors of every adjoint at every horizon, for each field.

    `direct` is left out: its gradient is that of `checkpoint` to rounding, and it costs
    as many steps as are allowed, which over long horizons is many.
    """
    adjoints = tuple(name for name in adjoints if name != "direct")
    for name in sizes.problems:
        problem = PROBLEMS[name]
        gradients = Gradients(
            lambda dtype, p=problem: (p.params(dtype), None),
            lambda y1, _: weighted_sum(y1),
            _ANALYTIC_STEPS,
        )
        truths = {t: (exact_gradient(problem, t), 0.0) for t in sizes.horizons}
        yield from _cells(name, adjoints, sizes, gradients, truths, reporter)
    gradients = network_gradients(model, dataset, sizes)
    truths = {t: _truth(gradients, t) for t in sizes.horizons}
    yield from _cells(NETWORK, adjoints, sizes, gradients, truths, reporter)


def network_gradients(
    model: jaxode.nn.ODENet, dataset: jaxode.datasets.Dataset, sizes: Sizes
) -> Gradients:
    """The loss of a batch, from the state that the trained stem makes of it."""
    images = jnp.asarray(dataset.train.images[: sizes.batch])
    labels = jnp.asarray(dataset.train.labels[: sizes.batch])
    y0 = model.stem(images)

    def make(dtype):
        cast = lambda x: jnp.asarray(x, dtype) if eqx.is_inexact_array(x) else x
        return jax.tree.map(cast, ((model.block.field, y0), (model.head, labels)))

    def loss_fn(y1, rest):
        head, labels = rest
        losses = optax.softmax_cross_entropy_with_integer_labels(head(y1), labels)
        return jnp.mean(losses)

    return Gradients(make, loss_fn, sizes.field_steps)


def _truth(gradients: Gradients, t1: float) -> tuple[Any, float | None]:
    """The gradient through the steps of a fine solve, and how well it is known."""
    known = []
    for tolerance in (10 * _TRUTH_TOLERANCE, _TRUTH_TOLERANCE):
        gradient, forward, _ = gradients(
            "checkpoint", "float64", tolerance, t1, _TRUTH_STEPS
        )
        if not forward.success:
            return None, None
        known.append(gradient)
    return known[1], finite(relative_l2(*known))


def _cells(
    name: str,
    adjoints: tuple[str, ...],
    sizes: Sizes,
    gradients: Gradients,
    truths: Mapping[float, tuple[Any, float | None]],
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    reporter.info(f"  {name}")
    cells = [
        (adjoint, *setting, t1)
        for adjoint in adjoints
        for setting in sizes.settings
        for t1 in sizes.horizons
    ]
    for adjoint, dtype, tolerance, t1 in reporter.each(cells, name):
        truth, reference_error = truths[t1]
        yield {
            "problem": name,
            "adjoint": adjoint,
            "dtype": dtype,
            "tolerance": tolerance,
            "horizon": t1,
            "reference_error": reference_error,
            **horizon_cell(gradients, adjoint, dtype, tolerance, t1, truth),
        }


def horizon_cell(
    gradients: Gradients,
    adjoint: str,
    dtype: str,
    tolerance: float,
    t1: float,
    truth: Any,
) -> dict[str, Any]:
    """Errors and counts of one gradient, or why there is none."""
    outcome, failure = attempt(lambda: gradients(adjoint, dtype, tolerance, t1))
    return _outcome(outcome, truth, failure)


def _outcome(outcome: Any, truth: Any, failure: str | None) -> dict[str, Any]:
    counts = "nfe_forward forward_steps nfe_backward backward_steps".split()
    errors: dict[str, float | None] = dict.fromkeys(
        ("gradient_error", "reconstruction_error")
    )
    if outcome is None:
        return errors | dict.fromkeys(counts) | {"failure": failure}
    gradient, forward, backward = outcome
    if not forward.success:
        failure = "the forward solve failed"
    elif backward.num_failures:
        failure = "the backward solve failed"
    else:
        errors["reconstruction_error"] = finite(float(backward.reconstruction_error))
        if errors["reconstruction_error"] is None:
            failure = "y(0) solved backwards is beyond float32"
        if truth is not None:
            errors["gradient_error"] = finite(relative_l2(gradient, truth))
        if errors["gradient_error"] is None:
            failure = "no truth" if truth is None else "the gradient is not finite"
    values = forward.nfe, forward.num_steps, backward.nfe, backward.num_steps
    record = dict(zip(counts, map(_count, values), strict=True))
    return {**errors, **record, "failure": failure}


def _count(value: Any) -> int | None:
    """A solver that hides its calls has `None` forwards and NaN backwards."""
    return None if value is None or not np.isfinite(value) else int(value)


def relative_l2(actual: Any, expected: Any) -> float:
    """`|actual - expected| / |expected|` over all arrays together, in float64."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    difference = size = 0.0
    for a, e in pairs:
        expected = np.asarray(e, np.float64)
        difference = math.hypot(difference, _norm(np.asarray(a, np.float64) - expected))
        size = math.hypot(size, _norm(expected))
    return difference / size if size else math.inf


def _norm(x: np.ndarray) -> float:
    """Without squares that overflow where the norm does not."""
    largest = float(np.max(np.abs(x)))
    if not largest or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(x / largest))
