"""A pendulum and all its gradients, each against one that is known otherwise.

    python docs/examples/pendulum.py

The loss is a weighted sum of the angle at several times. Released at rest at time 0,
the angle depends on time and length through t sqrt(g / l) alone, and only differences
of times matter. So its derivatives with respect to g, l and every time follow from the
angular velocity; those with respect to the initial state are held against differences.
"""

import jax
import jax.numpy as jnp

import jaxode


jax.config.update("jax_enable_x64", True)

ARGS = {"g": jnp.array(9.81), "l": jnp.array(0.7)}  # m/s^2, m
Y0 = jnp.array([1.2, 0.0])  # angle in radians, angular velocity
TS = jnp.array([0.0, 0.4, 1.1, 2.5])
WEIGHTS = jnp.array([0.0, 1.0, -2.0, 0.5])


def field(t, y, args):
    angle, velocity = y
    return jnp.stack([velocity, -args["g"] / args["l"] * jnp.sin(angle)])


def solve(y0, args, ts, adjoint):
    return jaxode.odeint(field, y0, ts, args, adjoint=adjoint, rtol=1e-10, atol=1e-10)


def loss(y0, args, ts, adjoint="checkpoint"):
    return WEIGHTS @ solve(y0, args, ts, adjoint).ys[:, 0]


def known_gradients(y0, args, ts):
    velocities = solve(y0, args, ts, "checkpoint").ys[:, 1]
    by_time = WEIGHTS * velocities
    by_g = by_time @ ts / (2 * args["g"])
    by_args = {"g": by_g, "l": -by_g * args["g"] / args["l"]}
    change = lambda h: loss(y0 + h, args, ts) - loss(y0 - h, args, ts)
    by_y0 = jnp.stack([change(h) / 2e-5 for h in 1e-5 * jnp.eye(2)])
    return by_y0, by_args, by_time.at[0].set(-by_time[1:].sum())


if __name__ == "__main__":
    known = jax.tree.leaves_with_path(jax.jit(known_gradients)(Y0, ARGS, TS))
    names = ("by initial state", "by gravity", "by length", "by time")
    for adjoint in ("backsolve", "checkpoint"):
        gradient = jax.grad(loss, argnums=(0, 1, 2))
        found = jax.jit(gradient, static_argnums=3)(Y0, ARGS, TS, adjoint)
        print(adjoint)
        for name, g, (_, k) in zip(names, jax.tree.leaves(found), known, strict=True):
            error = jnp.linalg.norm(g - k) / jnp.linalg.norm(k)
            print(f"  {name:17} {g}  off by {error:.0e}")
