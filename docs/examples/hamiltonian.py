"""A pendulum learned with and without a Hamiltonian, and followed for long after.

The task of Greydanus, Dzamba & Yosinski 2019 (arXiv:1906.01563, "ideal pendulum"):
25 paths of three units of time, 45 points each, noise 0.05, energy p^2 + 2 (1 - cos q).
They fit derivatives; here only points are seen, and both networks are fitted through
the solve, each path's start along with them. Printed is their measure, the mean squared
error of the true energy along the learned path, to time 20 as theirs and to 300.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxode


jax.config.update("jax_enable_x64", True)

PATHS, NOISE, TS = 25, 0.05, jnp.linspace(0.0, 3.0, 45)
# https://github.com/greydanus/hamiltonian-nn, README: energy MSE of the two.
PUBLISHED = 4.1519e-2, 2.4852e-2


def energy(y):
    return y[..., 1] ** 2 + 2 * (1 - jnp.cos(y[..., 0]))


def turned(gradient):
    """Hamilton's equations: (dq, dp) = (dH/dp, -dH/dq)."""
    return jnp.stack([gradient[1], -gradient[0]])


def pendulum(t, y, args):
    return turned(jax.grad(energy)(y))


class Plain(eqx.Module):
    net: eqx.nn.MLP

    def __init__(self, key):
        self.net = eqx.nn.MLP(2, 2, 64, 2, jnp.tanh, key=key)

    def __call__(self, t, y, args):
        return self.net(y)


class Hamiltonian(eqx.Module):
    net: eqx.nn.MLP

    def __init__(self, key):
        self.net = eqx.nn.MLP(2, "scalar", 64, 2, jnp.tanh, key=key)

    def __call__(self, t, y, args):
        return turned(jax.grad(self.net)(y))


def solve(field, starts, ts, tolerance=1e-7, **more):
    """Paths from many starts, each with steps of its own: `(start, time, 2)`."""
    settings: Any = dict(rtol=tolerance, atol=tolerance, max_steps=16384) | more
    return jax.vmap(lambda y: jaxode.odeint(field, y, ts, **settings).ys)(starts)


def draw_starts(key, number):
    """As theirs: any direction, radius 0.2 to 2."""
    radius_key, angle_key = jax.random.split(key)
    radius = jax.random.uniform(radius_key, (number,), minval=0.2, maxval=2.0)
    angle = jax.random.uniform(angle_key, (number,), maxval=2 * jnp.pi)
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)


def train(field, data, steps=1500):
    rate = optax.cosine_decay_schedule(1e-2, steps)
    # Without the clip a Hamiltonian that has become steep is not left again.
    optimiser = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(rate))

    def loss_fn(model):
        field, starts = model
        return jnp.mean(
            (solve(field, starts, TS, 1e-4, max_steps=256, throw=False) - data) ** 2
        )

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss_fn)(model)
        updates, state = optimiser.update(grads, state)
        return eqx.apply_updates(model, updates), state

    model = field, data[:, 0]
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    for _ in range(steps):
        model, state = step(model, state)
    return model[0], loss_fn(model)


def draw(ts, starts, paths):
    """Three of the paths: of little, middling and much energy."""
    _, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    shown = np.argsort(energy(starts))[np.array([1, 8, 13])]
    colours = {"plain": "tab:orange", "Hamiltonian": "tab:blue"}
    for axis, (name, colour) in zip(axes, colours.items()):
        for found, exact in zip(paths[name][shown], paths["true"][shown]):
            axis.plot(*found.T, color=colour, lw=0.4)
            axis.plot(*exact[: 5 * 8].T, "k:", lw=1.5)
            axes[2].plot(ts, energy(found), color=colour, lw=0.6)
        axis.set(title=f"{name}, to time 300", xlabel="angle", aspect="equal")
        axis.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3))
        axes[2].plot([], [], color=colour, label=name)
    axes[0].set(ylabel="momentum")
    axes[2].hlines(energy(starts[shown]), 0, ts[-1], "k", ":", lw=1.5, label="true")
    axes[2].axvspan(0, 3, color="0.8", lw=0, label="time of the data")
    axes[2].set(xlabel="time", title="energy", xlim=(0, ts[-1]), ylim=(0, None))
    handles, labels = axes[2].get_legend_handles_labels()
    axes[2].figure.legend(handles, labels, loc="outside lower center", ncols=4)
    plt.savefig("hamiltonian.png", dpi=150)


if __name__ == "__main__":
    data_key, noise_key, plain_key, test_key = jax.random.split(jax.random.key(0), 4)
    exact = solve(pendulum, draw_starts(data_key, PATHS), TS)
    data = exact + NOISE * jax.random.normal(noise_key, exact.shape)
    fields = {"plain": Plain(plain_key), "Hamiltonian": Hamiltonian(plain_key)}
    starts, ts = draw_starts(test_key, 15), jnp.linspace(0.0, 300.0, 1501)
    true = solve(pendulum, starts, ts)
    paths, errors = {"true": true}, []
    for name, untrained in fields.items():
        field, loss = train(untrained, data)
        paths[name] = solve(field, starts, ts)
        off = (energy(paths[name]) - energy(true)) ** 2
        errors.append([off[:, ts <= 20].mean(), off.mean()])
        print(f"{name}: fit {jnp.sqrt(loss):.4f} (noise {NOISE})")
    print("energy MSE   plain     Hamiltonian   ratio")
    for name, row in zip(
        ("to 20", "to 300", "published"), [*np.transpose(errors), PUBLISHED]
    ):
        print(f"{name:10} {row[0]:9.1e} {row[1]:11.1e} {row[0] / row[1]:10.1f}")
    draw(ts, starts, paths)
