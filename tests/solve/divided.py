"""A solve divided over eight simulated devices, run in a process of its own.

Prints one line of JSON for each case: how far the divided solve is from that of the
whole batch, and what the compiled program exchanges.
"""

import collections
import json
import re
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxode


ROWS, FILLED_UP = 6, 8
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


class Field(eqx.Module):
    """A small network that is driven by the time."""

    first: jax.Array
    second: jax.Array

    def __call__(self, t, y, args):
        return jnp.tanh(y @ self.first * jnp.cos(t) + args) @ self.second


def problem(num_rows: int) -> tuple:
    """Field, start, argument and times."""
    keys = jax.random.split(jax.random.key(0), 3)
    field = Field(
        jax.random.normal(keys[0], (3, 8)), jax.random.normal(keys[1], (8, 3))
    )
    y0 = jax.random.normal(keys[2], (FILLED_UP, 3))[:num_rows]
    return field, y0, jnp.full(8, 0.3), jnp.array([0.0, 0.4, 3.0])


def solve(field, y0, args, ts, **settings):
    """One solve, with the settings that all cases share."""
    settings = {"max_steps": 16, "throw": False, **settings}
    return jaxode.odeint(field, y0, ts, args, **settings)


def divided(num_devices: int, **settings: Any):
    """The same of rows that are divided over devices."""
    batch, whole = PartitionSpec("batch"), PartitionSpec()
    mesh = Mesh(np.array(jax.devices()[:num_devices]), "batch")
    closes = settings.pop("closes", False)

    def part(field, y0, args, ts):
        used = (lambda t, y, a: field(t, y, a)) if closes else field
        solution = solve(used, y0, args, ts, **settings)
        stats = solution.stats
        # Without a pooled norm devices count for themselves.
        counts = stats if settings.get("norm") else None
        return solution.ys, counts

    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(whole, batch, whole, whole),
        out_specs=(PartitionSpec(None, "batch"), whole),
    )


def gradient(solve_rows, num_rows: int):
    """Loss, statistics, gradients and backward counts, compiled."""

    def loss(given):
        ys, stats = solve_rows(*given)
        return jnp.sum(ys[:, :num_rows] ** 2), stats

    return jax.jit(jaxode.value_and_grad_with_stats(loss))


def alone(**settings: Any):
    """The whole batch on one device."""

    def rows(*given):
        solution = solve(*given, **settings)
        return solution.ys, solution.stats

    return rows


def exchanges(compiled: Any) -> dict[str, dict[str, int]]:
    """How often each number of values is exchanged, inside and outside of loops."""
    inside: dict[str, list[str]] = {}
    calls: dict[str, set[str]] = {}
    bodies: set[str] = set()
    name = ""
    for line in compiled.as_text().splitlines():
        if line.endswith("{") and (head := re.match(r"(?:ENTRY )?%?([\w.\-]+) ", line)):
            name = head[1]
            inside[name], calls[name] = [], set()
            continue
        bodies |= set(re.findall(r"body=%?([\w.\-]+)", line))
        for names in re.findall(r"=\{(%[^}]+)\}|=(%[\w.\-]+)", line):
            calls.get(name, set()).update(re.findall(r"%([\w.\-]+)", " ".join(names)))
        if match := re.search(rf"= (.+?) ({KINDS})(?:-start)?\(", line):
            for shape in re.findall(r"\w+\[([\d,]*)\]", match[1]):
                sizes = [int(size) for size in shape.split(",") if size]
                inside[name].append(f"{match[2]} {int(np.prod(sizes))}")
    looped, found = set(), list(bodies)
    while found:
        if (one := found.pop()) not in looped:
            looped.add(one)
            found += calls.get(one, ())
    where = {"loops": collections.Counter(), "outside": collections.Counter()}
    for computation, kinds in inside.items():
        where["loops" if computation in looped else "outside"].update(kinds)
    return {place: dict(counts) for place, counts in where.items()}


def largest_difference(actual: Any, expected: Any) -> float:
    """Over all leaves, by the largest entry of each."""
    differences = [
        float(np.max(np.abs(a * 1.0 - b * 1.0)) / max(np.max(np.abs(b * 1.0)), 1e-30))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    ]
    return max(differences)


def pooled(adjoint: str, seminorm: bool = False) -> dict[str, Any]:
    """Six rows, filled up to eight, on four devices against six rows on one."""
    chosen = jaxode.Backsolve(seminorm=True) if seminorm else adjoint
    norm = jaxode.PooledNorm("batch", samples=ROWS)
    given = problem(FILLED_UP)
    step = gradient(divided(4, adjoint=chosen, norm=norm), ROWS)
    compiled = step.lower(given).compile()
    field, y0, args, ts = given
    whole = field, y0[:ROWS], args, ts
    expected = gradient(alone(adjoint=chosen), ROWS)(whole)
    out, grads, counts = compiled(given)
    grads = eqx.tree_at(lambda g: g[1], grads, grads[1][:ROWS])
    return {
        "difference": largest_difference((out, grads, counts), expected),
        "steps": int(expected[0][1].num_steps),
        "backward": float(expected[2].num_steps),
        "exchanges": exchanges(compiled),
    }


def separate(adjoint: str) -> dict[str, Any]:
    """Eight rows on four devices, each by itself, against four solves of two rows."""
    given = problem(FILLED_UP)
    closes = adjoint != "backsolve"
    step = gradient(divided(4, adjoint=adjoint, closes=closes), FILLED_UP)
    compiled = step.lower(given).compile()

    def one_by_one(given):
        field, y0, args, ts = given
        parts = [
            solve(field, part, args, ts, adjoint=adjoint).ys
            for part in jnp.split(y0, 4)
        ]
        return sum(jnp.sum(ys**2) for ys in parts)

    expected = jax.jit(jax.value_and_grad(one_by_one))(given)
    (loss, _), grads, _ = compiled(given)
    return {
        "difference": largest_difference((loss, grads), expected),
        "exchanges": exchanges(compiled),
    }


def automatic(adjoint: str) -> dict[str, Any]:
    """Eight rows, sharded over four devices, with nothing said in the program."""
    given = field, y0, args, ts = problem(FILLED_UP)
    mesh = Mesh(np.array(jax.devices()[:4]), "batch")
    rows = jax.device_put(y0, NamedSharding(mesh, PartitionSpec("batch")))
    rest = jax.device_put((field, args, ts), NamedSharding(mesh, PartitionSpec()))
    sharded = rest[0], rows, rest[1], rest[2]
    step = gradient(alone(adjoint=adjoint), FILLED_UP)
    compiled = step.lower(sharded).compile()
    return {
        "difference": largest_difference(compiled(sharded), step(given)),
        "exchanges": exchanges(compiled),
    }


CASES = {"pooled": pooled, "separate": separate, "automatic": automatic}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for case in sys.argv[1:]:
        name, *options = case.split(":")
        result = CASES[name](*options)
        sys.stdout.write(json.dumps({"case": case, **result}) + "\n")
