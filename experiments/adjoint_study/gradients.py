"""Gradients compared at one place: their memory, and their error and seconds."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

import jaxode
from adjoint_study.config import Sizes
from adjoint_study.fields import PROBLEMS, weighted_sum
from adjoint_study.training import Networks, ode_variant
from classifier.memory import EVERY_STEP, measure
from classifier.setup import build_model
from console.progress import Reporter


_Value = TypeVar("_Value")


def attempt(measure: Callable[[], _Value]) -> tuple[_Value | None, str | None]:
    """What `measure` returns; or why it could not, as an entry for the table."""
    try:
        return measure(), None
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0]}"


def memory_records(
    adjoints: tuple[str, ...], sizes: Sizes, reporter: Reporter
) -> list[dict[str, Any]]:
    """Temporary bytes of each adjoint's gradient in fixed Euler steps."""
    names = (*adjoints, EVERY_STEP)
    cells = [(name, steps) for name in names for steps in sizes.memory_steps]
    records = []
    for adjoint, steps in reporter.each(cells, "memory"):
        found, failure = attempt(lambda a=adjoint, n=steps: measure(a, n))
        records.append(
            {
                "adjoint": adjoint,
                "steps": steps,
                "temporary_bytes": found and found.temporary_bytes,
                "state_bytes": found and found.state_bytes,
                "failure": failure,
            }
        )
    return records


def tolerance_records(
    adjoints: tuple[str, ...],
    sizes: Sizes,
    networks: Networks,
    dataset: jaxode.datasets.Dataset,
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    """The cells of `compare_adjoints` on the network and on the analytic fields."""
    options = dict(
        adjoints=adjoints,
        rtols=sizes.tolerances,
        rounds=sizes.rounds,
        progress=reporter.is_live,
    )
    batch = sizes.batch
    images = jnp.asarray(dataset.train.images[:batch])
    labels = jnp.asarray(dataset.train.labels[:batch])
    for state in sizes.states:
        model = networks.usual().model
        if state == "fresh":
            model = build_model(
                ode_variant(networks.recipe, sizes.trained_at[0]).config
            )
        name, bound = f"network, {state}", {"max_steps": sizes.network_steps}
        reporter.info(f"  {name}")
        data = model, images, labels
        yield from _compared(name, _network_loss, data, options | bound, reporter)
    for name in sizes.problems:
        reporter.info(f"  {name}")
        params = PROBLEMS[name].params(jnp.float32)
        yield from _compared(name, _field_loss, (params,), options, reporter)


def _network_loss(model: jaxode.nn.ODENet, images: Any, labels: Any) -> jax.Array:
    return jaxode.training.loss_and_metrics(model, images, labels)[0]


def _field_loss(params: Any) -> jax.Array:
    field, y0 = params
    ts = jnp.asarray([0.0, 1.0])
    return weighted_sum(jaxode.odeint(field, y0, ts, throw=False).ys[-1])


def _compared(
    problem: str,
    loss_fn: Callable,
    arguments: tuple,
    options: dict[str, Any],
    reporter: Reporter,
) -> list[dict[str, Any]]:
    comparison, failure = attempt(
        lambda: jaxode.compare_adjoints(loss_fn, *arguments, **options)
    )
    if comparison is None:
        return [{"problem": problem, "failure": failure}]
    reporter.info(comparison.verdict)
    found = comparison.to_dict()
    shared = {"problem": problem, "reference_error": found["reference"]["error"]}
    return [shared | cell for cell in found["cells"]]
