"""The four rates of predators and prey, from noisy counts; ten seeds.

The problem that SciML's tutorials fit: rates (1.5, 1, 3, 1) from (1, 1), seen a hundred
times over ten units of time, here with noise of a tenth. Beside it stands SciPy's least
squares by finite differences on the same data, which starts at the right rates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import jaxode


TRUE, NOISE, Y0 = np.array([1.5, 1.0, 3.0, 1.0]), 0.1, [1.0, 1.0]
TS = np.linspace(0.0, 10.0, 100)


def field(t, y, p):
    prey, predators = y
    met = prey * predators
    return jnp.stack([p[0] * prey - p[1] * met, p[3] * met - p[2] * predators])


def solve(p):
    y0, ts = jnp.array(Y0), jnp.asarray(TS, jnp.float32)
    return jaxode.odeint(field, y0, ts, p, rtol=1e-4, atol=1e-5, throw=False).ys


def fit(data, steps=600):
    """Rates for one seed. Ever longer stretches: the whole at once has bad minima."""
    start = jnp.log(jnp.array([1.0, 0.7, 2.0, 0.7]))
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def loss_fn(log_p, i):
        shown = jnp.arange(100) < 15 + 0.2 * i
        return jnp.sum(
            jnp.where(shown[:, None], (solve(jnp.exp(log_p)) - data) ** 2, 0)
        )

    def step(carry, i):
        log_p, state = carry
        grads = jax.grad(loss_fn)(log_p, i)
        updates, state = optimiser.update(grads, state)
        return (log_p + updates, state), None

    numbers = jnp.arange(steps, dtype=jnp.float32)
    return jnp.exp(jax.lax.scan(step, (start, optimiser.init(start)), numbers)[0][0])


def peer(data):
    def rhs(t, y, p):
        met = y[0] * y[1]
        return [p[0] * y[0] - p[1] * met, p[3] * met - p[2] * y[1]]

    def residuals(p):
        run = solve_ivp(rhs, (0, 10), Y0, t_eval=TS, args=(p,), rtol=1e-6, atol=1e-8)
        return (run.y.T - data).ravel()

    return least_squares(residuals, TRUE).x


if __name__ == "__main__":
    exact = np.asarray(solve(jnp.asarray(TRUE, jnp.float32)))
    rng = np.random.default_rng(0)
    data = exact + NOISE * rng.normal(size=(10, 100, 2))
    found = np.asarray(jax.jit(jax.vmap(fit))(jnp.asarray(data, jnp.float32)))
    peers = np.array([peer(one) for one in data])
    print("rate   true   jaxode: mean, deviation   SciPy: mean, deviation")
    show = lambda p: f"{p.mean():12.4f} {p.std(ddof=1):11.4f}"
    for name, true, ours, theirs in zip("abcd", TRUE, found.T, peers.T):
        print(f"{name} {true:9} {show(ours)}   {show(theirs)}")
    print(f"largest difference between the two: {np.abs(found - peers).max():.4f}")

    layout: Any = dict(width_ratios=[2, 1], layout="constrained")
    _, axes = plt.subplots(1, 2, figsize=(10, 3.4), **layout)
    for i, (name, colour) in enumerate((("prey", "C2"), ("predators", "C3"))):
        axes[0].plot(TS, data[0, :, i], ".", color=colour, alpha=0.5)
        axes[0].plot(TS, solve(jnp.asarray(found[0]))[:, i], color=colour, label=name)
    axes[0].set(xlabel="time", title="first seed: seen, and fitted", ylim=(0, None))
    axes[0].legend(frameon=False, loc="upper right", ncols=2)
    axes[1].axhline(0, color="0.7", lw=1)
    axes[1].plot(100 * (found / TRUE - 1).T, "o", color="tab:blue", alpha=0.5, ms=5)
    axes[1].set(title="ten seeds: error, %", xticks=range(4), xticklabels="abcd")
    plt.savefig("lotka_volterra.png", dpi=150)
