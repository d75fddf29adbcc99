"""What is measured on whole networks: along training, under other solvers, of twins."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import diffrax
import jax

import jaxode
from adjoint_study.config import Sizes
from adjoint_study.gradients import attempt
from adjoint_study.training import Networks, Trained, Variant
from classifier.networks import SOLVERS
from classifier.records import sums_on_host, test_record
from classifier.setup import count_parameters
from console.progress import Reporter


_FIXED = ("euler", "midpoint", "rk4")
_ADAPTIVE = ("bosh3", "tsit5", "dopri8")
_SCORE_STEPS = 1024


def training_records(networks: Networks) -> Iterator[dict[str, Any]]:
    """Every stretch of every training with an ODE block, by backsolve."""
    for trained in networks.at_tolerances():
        for stretch in trained.stretches:
            calls = stretch["nfe_forward"]
            yield {
                "network": trained.name,
                "tolerance": trained.config.rtol,
                **stretch,
                "backward_over_forward": calls and stretch["nfe_backward"] / calls,
                "failure": trained.failure,
            }


def solver_records(
    sizes: Sizes,
    networks: Networks,
    dataset: jaxode.datasets.Dataset,
    reporter: Reporter,
) -> Iterator[dict[str, Any]]:
    """Scores of each trained network under tolerances and solvers other than its own.

    The first of a network is the one it was trained for.
    """
    batch_size = networks.recipe.eval_batch_size
    images, labels = (x[: sizes.scored] for x in dataset.test)
    images, labels = jax.device_put((images, labels))
    batch_size = min(batch_size, len(labels))
    every = networks.at_tolerances()
    if networks.given is not None:
        every = [*every, networks.given]
    for trained in every:
        reporter.info(f"  {trained.name}")
        for solve in reporter.each(scored_under(sizes, trained), trained.name):
            model = trained.model.with_solve(adjoint="checkpoint", **_settings(solve))
            score, failure = attempt(
                lambda m=model: test_record(
                    sums_on_host(
                        jaxode.training.evaluate(
                            m, images, labels, batch_size=batch_size
                        )
                    )
                )
            )
            yield {
                "network": trained.name,
                **solve,
                **(score or {}),
                "failure": failure or trained.failure,
            }


def scored_under(sizes: Sizes, trained: Trained) -> list[dict[str, Any]]:
    """Solver with a tolerance or a number of steps: the network's own, then others."""
    config = trained.config
    fixed = config.fixed_steps
    own = {
        "solver": config.solver,
        "tolerance": None if fixed else config.rtol,
        "steps": math.ceil(1 / config.dt0) if fixed and config.dt0 else None,
        "own": True,
    }
    other = [("dopri5", tolerance, None) for tolerance in sizes.score_tolerances]
    other += [(name, None, n) for name in _FIXED for n in sizes.score_steps]
    tolerance = sizes.trained_at[0] if fixed else config.rtol
    other += [(name, tolerance, None) for name in _ADAPTIVE]
    names = ("solver", "tolerance", "steps", "own")
    return [own, *(dict(zip(names, (*solve, False), strict=True)) for solve in other)]


def _settings(solve: dict[str, Any]) -> dict[str, Any]:
    solver: diffrax.AbstractSolver = SOLVERS[solve["solver"]]()
    steps, tolerance = solve["steps"], solve["tolerance"]
    return {
        "solver": solver,
        "rtol": tolerance,
        "atol": tolerance,
        "dt0": None if steps is None else 1 / steps,
        "max_steps": steps or _SCORE_STEPS,
    }


def twin_records(sizes: Sizes, networks: Networks) -> Iterator[dict[str, Any]]:
    """The ODE block, residual blocks with shared and with own fields, and no block."""
    tolerance = sizes.trained_at[0]
    blocks = sizes.blocks
    recipe = networks.recipe
    residual = dataclasses.replace(recipe, model="residual", blocks=blocks)
    untied = dataclasses.replace(residual, weights="untied")
    variants = [
        Variant(f"{blocks} blocks, one field", residual),
        Variant(f"{blocks} blocks, {blocks} fields", untied),
        Variant("no block", dataclasses.replace(recipe, model="none")),
    ]
    ode = networks.at_tolerances()[0]
    every = [ode, *(networks.train(variant) for variant in variants)]
    names = [f"ODE block, tolerance {tolerance:g}", *(v.name for v in variants)]
    for name, trained in zip(names, every, strict=True):
        test = trained.test
        right, total = test["test_accuracy"], test["test_total"]
        yield {
            "network": name,
            "parameters": count_parameters(trained.model),
            **test,
            "accuracy_standard_error": math.sqrt(right * (1 - right) / total),
            "seconds_per_epoch": test["train_seconds"] / test["epochs"],
            "failure": trained.failure,
        }
