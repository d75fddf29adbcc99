"""How high a ball bounces, learned from where it was seen.

Forty noisy heights over three seconds, through four bounces; wanted are gravity, the
height it fell from, and the part of its speed that a bounce leaves. Each flight is a
solve that ends at the floor, and the gradient passes through the times of the bounces.
Beside it stands SciPy's least squares on the parabolas written out, which needs to be
told what the solver finds.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import least_squares

import jaxode


FLIGHTS, NOISE, TRUE = 6, 0.03, (9.81, 2.0, 0.8)


def fall(t, y, g):
    return jnp.stack([y[1], -g])


def heights(parameters, seen):
    """Height at each of the times seen: `(g, h0, e)`, `(time,)` to `(time,)`."""
    g, start, e = parameters

    def flight(carry, _):
        t, y, found = carry
        # Times before this flight are moved to its start: equal times are no steps.
        ts = jnp.concatenate([t[None], jnp.maximum(seen, t), jnp.maximum(t, 4.0)[None]])
        floor = lambda t, y, g: y[0]
        hit = jaxode.odeint_event(fall, y, ts, floor, g, direction=-1, throw=False)
        is_own = (seen >= t) & ((seen < hit.t) | ~hit.happened)
        found = jnp.where(is_own, hit.ys[1:-1, 0], found)
        return (hit.t, jnp.stack([jnp.zeros_like(e), -e * hit.y[1]]), found), None

    y = jnp.stack([start, jnp.zeros_like(start)])
    carry = jnp.zeros(()), y, jnp.zeros_like(seen)
    return jax.lax.scan(flight, carry, length=FLIGHTS)[0][2]


def parabolas(parameters, seen):
    """The same, written out."""
    g, start, e = parameters
    t, speed = np.sqrt(2 * start / g), np.sqrt(2 * start * g)
    found = np.where(seen < t, start - g * seen**2 / 2, 0.0)
    for _ in range(FLIGHTS - 1):
        speed *= e
        since = seen - t
        found = np.where(since >= 0, speed * since - g * since**2 / 2, found)
        t += 2 * speed / g
    return found


def fit(seen, data, steps=250):
    loss_fn = lambda parameters: jnp.mean((heights(parameters, seen) - data) ** 2)
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, steps))

    @jax.jit
    def step(parameters, state):
        grads = jax.grad(loss_fn)(parameters)
        # Gravity is ten times as large as the others.
        scale = jnp.array([10.0, 1.0, 0.3])
        updates, state = optimiser.update(grads * scale, state)
        return parameters + scale * jnp.asarray(updates), state

    parameters = jnp.array([8.5, 1.7, 0.7])
    state = optimiser.init(parameters)
    for _ in range(steps):
        parameters, state = step(parameters, state)
    return parameters


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    seen = np.sort(rng.uniform(0.0, 3.0, 40))
    data = parabolas(TRUE, seen) + NOISE * rng.normal(size=40)
    found = fit(jnp.asarray(seen, jnp.float32), jnp.asarray(data, jnp.float32))
    residuals = lambda p: parabolas(p, seen) - data
    peer = least_squares(residuals, TRUE)
    error = NOISE * np.sqrt(np.diag(np.linalg.inv(peer.jac.T @ peer.jac)))
    print("                 true   jaxode    SciPy, which starts there")
    for row in zip(("gravity", "height", "restitution"), TRUE, found, peer.x, error):
        print("{:11} {:9.3f} {:8.4f} {:8.4f} +- {:.4f}".format(*row))

    fine = jnp.linspace(0.0, 3.0, 400)
    _, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    start = heights(jnp.array([8.5, 1.7, 0.7]), fine)
    axes.plot(fine, start, color="0.75", label="before")
    axes.plot(fine, heights(found, fine), color="tab:blue", label="learned")
    axes.plot(seen, data, "o", color="tab:orange", ms=4, label="seen")
    axes.set(xlabel="time, s", ylabel="height, m", ylim=(-0.05, 2.15), xlim=(0, 3))
    axes.legend(frameon=False, ncols=3, loc="upper right")
    plt.savefig("bouncing_ball.png", dpi=150)
