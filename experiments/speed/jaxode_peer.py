"""This library, timed on request. Run by `benchmark.py`.

In a process of its own, since XLA's threads are chosen when a process starts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxode
from speed.serve import serve


def prepare(request: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A training step, or the scoring of all images, by the public functions."""
    with np.load(request["weights"]) as weights:
        model = jaxode.nn.from_torch(dict(weights))
    assert isinstance(model, jaxode.nn.ODENet)  # PaperNet is one
    with np.load(request["data"]) as data:
        images, labels = jnp.asarray(data["images"]), jnp.asarray(data["labels"])
    task, batch, tolerance = (request[x] for x in ("task", "batch", "tolerance"))
    adjoint = "checkpoint" if task == "test" else task
    model = model.with_solve(rtol=tolerance, atol=tolerance, adjoint=adjoint)
    if task == "test":
        run = lambda: jaxode.training.evaluate(model, images, labels, batch_size=batch)
        metrics = run()
    else:
        # The rate is zero: every contestant must solve the same ODE in every round.
        optimiser = optax.sgd(0.0, momentum=0.9)
        state = jaxode.training.TrainState.create(model, optimiser)
        first = images[:batch], labels[:batch]
        run = lambda: jaxode.training.train_step(state, *first, optimiser=optimiser)
        _, metrics = run()
    jax.block_until_ready(run())
    calls = float(metrics.nfe_forward + metrics.nfe_backward)
    return lambda: jax.block_until_ready(run()), dict(calls=calls)


if __name__ == "__main__":
    serve(prepare)
