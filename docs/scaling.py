"""The tables of `scaling.md`: what a divided training step computes and exchanges.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python docs/scaling.py count
    python docs/scaling.py pieces
    python docs/scaling.py simulate --step-ms 38 --batch 64

The first compiles the classifier's training step for 1, 2, 4 and 8 devices and reads
the programs, the second for a batch in 1, 2, 4 and 8 pieces. The third computes, from
the step time of one device and the speed of the links, what more devices would take. It
is arithmetic under the assumptions that it prints, and no measurement.
"""

import argparse
import math
import re
from typing import Any


PARAMETERS = 10_564
FIELD_PARAMETERS = 6 * 6 * 9 + 6 + 2 * 6
NORMS_FORWARD = 3
"""Error norms of Hairer's rule for the first step."""

LINKS = {
    "10 GbE": (25e-6, 1.25e9),
    "100 Gb InfiniBand": (2e-6, 12.5e9),
    "links within a pod or a node": (1e-6, 100e9),
}
"""Seconds for a message between two devices, and bytes per second."""


def count(batch: int) -> None:
    """Prints what the compiled training step of each device does."""
    print("devices  images on each  operations  of one  temporary bytes  exchanged")
    base = None
    for num_devices in (1, 2, 4, 8):
        compiled = compiled_steps(batch, num_devices)
        cost = compiled.cost_analysis()
        memory = compiled.memory_analysis()
        base = base or cost["flops"]
        print(
            f"{num_devices:7}  {-(-batch // num_devices):14}  {cost['flops']:10.3g}  "
            f"{cost['flops'] / base:6.3f}  {memory.temp_size_in_bytes:15,}  "
            f"{exchanged(compiled.as_text())}",
            flush=True,
        )


def count_pieces(batch: int) -> None:
    """Prints the memory of a step that takes a batch in pieces, on one device."""
    print("pieces  images of each  temporary bytes")
    for accumulate in (1, 2, 4, 8):
        memory = compiled_steps(batch, 1, accumulate=accumulate).memory_analysis()
        size = memory.temp_size_in_bytes
        print(f"{accumulate:6}  {-(-batch // accumulate):14}  {size:15,}", flush=True)


def compiled_steps(batch: int, num_devices: int, **options: Any) -> Any:
    """The compiled training steps of the classifier."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import jaxode
    from jaxode.training import Metrics, train_steps, TrainData, TrainState

    optimiser = optax.sgd(0.05, momentum=0.9)
    program: Any = train_steps
    mesh = Mesh(np.array(jax.devices()[:num_devices]), "batch")
    divided = NamedSharding(mesh, PartitionSpec("batch"))
    whole = NamedSharding(mesh, PartitionSpec())
    model = jaxode.nn.ODENet(6, key=jax.random.key(0))
    data = TrainData(
        images=jnp.zeros((4 * batch, 28, 28, 1), jnp.uint8),
        labels=jnp.zeros(4 * batch, jnp.int32),
        order=jnp.zeros((4, batch), jnp.int32),
        rows=jnp.array([0, 4], jnp.int32),
        key=jax.random.key(1),
    )
    state = TrainState.create(model, optimiser)
    given = jax.device_put((data, state, Metrics.zeros()), whole)
    options |= {"optimiser": optimiser, "sharding": divided}
    return program.lower(*given, **options).compile().compiled


def exchanged(text: str) -> str:
    """The exchanges in a program, by kind and number of values."""
    found: dict[str, int] = {}
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    for shapes, kind in re.findall(rf"= (.+?) ({kinds})(?:-start)?\(", text):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            size = math.prod(int(n) for n in shape.split(",") if n)
            name = f"{kind} of {size:,}"
            found[name] = found.get(name, 0) + 1
    return ", ".join(f"{times} {name}" for name, times in sorted(found.items()))


def simulate(step_ms: float, batch: int, tried: int, link: str) -> None:
    """Prints seconds of a step on more and more devices."""
    latency, bandwidth = LINKS[link]
    per_image = step_ms / 1e3 / batch
    print(f"{link}: {latency * 1e6:g} us a message, {bandwidth / 1e9:g} GB/s")
    print("devices  fixed batch ms  speed-up  fixed images per device ms  efficiency")
    for power in range(13):
        num_devices = 2**power
        talk = seconds_exchanging(num_devices, tried, latency, bandwidth)
        # A device has at least one image.
        alone = per_image * math.ceil(batch / num_devices)
        strong = alone + talk
        weak = per_image * batch + talk
        print(
            f"{num_devices:7}  {strong * 1e3:14.3f}  "
            f"{step_ms / 1e3 / strong:8.1f}  {weak * 1e3:26.3f}  "
            f"{per_image * batch / weak:10.1%}"
        )


def seconds_exchanging(
    num_devices: int, tried: int, latency: float, bandwidth: float
) -> float:
    """Of the exchanges of a step under `discrete`.

    An all-reduce of one number is a tree up and down; the gradient goes around a ring,
    two times (n - 1) / n of it over each link.
    """
    if num_devices == 1:
        return 0.0
    tree = 2 * math.ceil(math.log2(num_devices)) * latency
    ring = 2 * (num_devices - 1) / num_devices * 4 * PARAMETERS / bandwidth
    return (NORMS_FORWARD + tried + 1) * tree + ring


def main() -> None:
    parser = argparse.ArgumentParser(description="The tables of scaling.md.")
    parser.add_argument("what", choices=("count", "pieces", "simulate"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=38.0)
    parser.add_argument("--tried", type=int, default=2, help="steps of a solve")
    given = parser.parse_args()
    if given.what == "count":
        count(given.batch)
        return
    if given.what == "pieces":
        count_pieces(given.batch)
        return
    for link in LINKS:
        simulate(given.step_ms, given.batch, given.tried, link)


if __name__ == "__main__":
    main()
