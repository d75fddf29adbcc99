"""Spirals seen at thirty times of their own, gone on with by a latent ODE and an RNN.

After Chen, Rubanova, Bettencourt & Duvenaud 2018 (arXiv:1806.07366, section 5): pieces
of a noisy spiral, turning left or right, each seen at 30 of 100 times and predicted at
the next 100. A recurrent network reads what was seen, backwards, into a distribution
over four numbers; an ODE carries these to any time; a decoder says where the spiral is.
As in Rubanova, Chen & Duvenaud 2019 (arXiv:1907.03907) training spirals are seen later
too, here at 30 of the next 100 times. The peer is a recurrent network that is told the
gaps between times and goes on from its own predictions, in training too. Spiral and
noise are as large as in the program of the first paper's authors (torchdiffeq's
latent_ode.py); PUBLISHED is table 2 of the paper. `latent_ode.py 3` is draw 3.
"""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxode


SPIRALS, TESTS, SEEN, NOISE = 1000, 200, 30, 0.3
STEPS, BATCH, UNITS = 4000, 100, 32
STEP = 1.2 * np.pi / 100  # the angle grows by one in a unit of time
GRID = np.arange(201) * STEP
PUBLISHED = 0.1642, 0.3937


class LatentODE(eqx.Module):
    cell: eqx.nn.GRUCell
    latent: eqx.nn.Linear
    net: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.cell = eqx.nn.GRUCell(3, UNITS, key=keys[0])
        self.latent = eqx.nn.Linear(UNITS, 8, key=keys[1])
        self.net = eqx.nn.MLP(4, 4, UNITS, 2, jnp.tanh, key=keys[2])
        self.decoder = eqx.nn.MLP(4, 2, UNITS, 1, jnp.tanh, key=keys[3])

    def encode(self, times, xs):
        """Mean and log of the deviation of the state at time 0, for one spiral."""
        inputs = jnp.concatenate([xs, times[:, None]], axis=1) / 3
        read = lambda hidden, x: (self.cell(x, hidden), None)
        hidden, _ = jax.lax.scan(read, jnp.zeros(UNITS), inputs, reverse=True)
        return jnp.split(self.latent(hidden), 2)

    def states(self, z0, ts):
        """All spirals as one ODE: `(spiral, 4)` to `(time, spiral, 4)`."""
        field = lambda t, z, net: jax.vmap(net)(z)
        settings: Any = dict(rtol=1e-3, atol=1e-3, throw=False)
        return jaxode.odeint(field, z0, ts, self.net, **settings).ys

    def predict(self, times, xs):
        """Where the spirals are at all times of the grid: `(spiral, time, 2)`."""
        z0, _ = jax.vmap(self.encode)(times[:, :SEEN], xs[:, :SEEN])
        zs = self.states(z0, jnp.asarray(GRID, jnp.float32))
        return 3 * jax.vmap(jax.vmap(self.decoder))(zs).swapaxes(0, 1)

    def loss(self, times, xs, index, ts, key):
        """The evidence lower bound, negative and for each point seen."""
        mean, log_std = jax.vmap(self.encode)(times[:, :SEEN], xs[:, :SEEN])
        z0 = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        own = self.states(z0, ts)[index, jnp.arange(len(xs))[:, None]]
        found = 3 * jax.vmap(jax.vmap(self.decoder))(own)
        misfit = ((found - xs) ** 2).sum((1, 2)) / (2 * NOISE**2)
        kl = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum(1)
        return jnp.mean(misfit + kl) / SEEN


class RNN(eqx.Module):
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self, key):
        cell_key, out_key = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(3, UNITS, key=cell_key)
        self.out = eqx.nn.Linear(UNITS, 2, key=out_key)

    def step(self, hidden, x, gap):
        hidden = self.cell(jnp.append(x / 3, gap / (3 * STEP)), hidden)
        return hidden, x + 3 * self.out(hidden)

    def go_on(self, times, xs, later):
        """What is predicted after each point seen but the last, and at later times."""
        read = lambda hidden, inputs: self.step(hidden, *inputs)
        inputs = xs[:-1], jnp.diff(times)
        hidden, found = jax.lax.scan(read, jnp.zeros(UNITS), inputs)

        def step(carry, t):
            before, x, hidden = carry
            hidden, x = self.step(hidden, x, t - before)
            return (t, x, hidden), x

        return found, jax.lax.scan(step, (times[-1], xs[-1], hidden), later)[1]

    def predict(self, times, xs, later):
        """Where the spirals are at later times: `(spiral, time, 2)`."""
        return jax.vmap(self.go_on)(times[:, :SEEN], xs[:, :SEEN], later)[1]

    def loss(self, times, xs, index, ts, key):
        seen = times[:, :SEEN], xs[:, :SEEN]
        found, later = jax.vmap(self.go_on)(*seen, times[:, SEEN:])
        found = jnp.concatenate([found, later], axis=1)
        return jnp.mean((found - xs[:, 1:]) ** 2) / NOISE**2


def spiral(first, turn, times=GRID):
    """Points of a spiral from the angle `first` on, turning left (1) or right (-1)."""
    angle = first + times
    return 0.3 * angle[..., None] * np.stack([np.cos(angle), turn * np.sin(angle)], -1)


def draw_data(rng, number):
    """Paths without noise; 30 places on the grid up to 100, 30 after; what is seen."""
    first, turn = rng.uniform(0, 3.6 * np.pi, (number, 1)), rng.choice([-1, 1], number)
    paths = spiral(first, turn[:, None])
    halves = np.arange(1, 101), np.arange(101, 201)
    every = (rng.permuted(np.tile(half, (number, 1)), axis=1) for half in halves)
    places = np.concatenate([np.sort(x[:, :SEEN]) for x in every], axis=1)
    xs = at(places, paths)
    return paths, places, xs + NOISE * rng.normal(size=xs.shape)


def at(places, x):
    return np.take_along_axis(x, places[..., None], -2)


def fit_known(places, xs):
    """Least squares for where the spiral starts and turns, its shape being known."""
    first, turn = np.meshgrid(np.linspace(0, 3.6 * np.pi, 1000), [-1, 1])
    curves = spiral(first.reshape(-1, 1), turn.reshape(-1, 1))
    off = [((curves[:, i] - x) ** 2).sum((1, 2)) for i, x in zip(places, xs)]
    return curves[np.argmin(off, axis=1)]


def train(model, data, ts, key) -> Any:
    rate = optax.cosine_decay_schedule(1e-2, STEPS)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    arrays, static = eqx.partition(model, eqx.is_array)

    def step(carry, key):
        arrays, state = carry
        batch = jax.random.choice(key, SPIRALS, (BATCH,))
        loss = lambda arrays: eqx.combine(arrays, static).loss(
            *(x[batch] for x in data), ts, key
        )
        updates, state = optimiser.update(jax.grad(loss)(arrays), state)
        return (optax.apply_updates(arrays, updates), state), None

    start = arrays, optimiser.init(arrays)
    (arrays, _), _ = jax.lax.scan(step, start, jax.random.split(key, STEPS))
    return eqx.combine(arrays, static)


def rmse(found, true, axis=None):
    return np.sqrt(np.mean((found - true) ** 2, axis))


def draw(seen, later, paths):
    """Three spirals of the tests, and the errors of all at each time."""
    _, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
    ode, rnn, true = paths["latent ODE"], paths["RNN"], paths["true"]
    for axis, i in zip(axes, (0, 1, 2)):
        axis.plot(*true[i].T, ":", color="k", lw=1.5, label="true")
        axis.plot(*seen[i].T, "o", color="0.6", ms=3, label="seen")
        axis.plot(*ode[i, :101].T, color="tab:blue", lw=1, label="latent ODE")
        axis.plot(*ode[i, 100:].T, color="tab:blue", lw=2.5, label="and after")
        axis.plot(*rnn[i].T, "x", color="tab:orange", ms=5, label="RNN, after")
        axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-6, 6), ylim=(-6, 6))
    off = ((rnn - at(later, true)) ** 2).mean(-1).ravel()
    sums, counts = (np.bincount(later.ravel(), x)[101:] for x in (off, None))
    axes[3].axvspan(0, GRID[100], color="0.9", lw=0, label="time seen")
    axes[3].plot(GRID[101:], np.sqrt(sums / counts), color="tab:orange")
    axes[3].plot(GRID, rmse(ode, true, (0, 2)), color="tab:blue", lw=2)
    known = rmse(paths["known"], true, (0, 2))
    axes[3].plot(GRID, known, color="tab:green", label="shape known")
    axes[3].set(xlabel="time", ylabel="RMSE", xlim=(0, GRID[-1]), ylim=(0, 0.3))
    entries = [axes[i].get_legend_handles_labels() for i in (0, 3)]
    handles, labels = (a + b for a, b in zip(*entries))
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=7)
    plt.savefig("latent_ode.png", dpi=150)


if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    rng = np.random.default_rng(seed)
    _, places, xs = draw_data(rng, SPIRALS)
    true, own, seen = draw_data(rng, TESTS)
    # All spirals are one ODE from time 0 on; index says which rows are whose.
    ts, index, _ = jaxode.union_times([np.append(0.0, times) for times in GRID[places]])
    data = [jnp.asarray(x) for x in (GRID[places], xs, index[:, 1:])]
    key = jax.random.key(seed)
    ode, rnn = (
        eqx.filter_jit(train)(kind(key), data, jnp.asarray(ts), key)
        for kind in (LatentODE, RNN)
    )
    later, every = own[:, SEEN:], np.tile(np.arange(101, 201), (TESTS, 1))
    ours = np.asarray(eqx.filter_jit(ode.predict)(GRID[own], seen))
    in_30, in_100 = (
        np.asarray(eqx.filter_jit(rnn.predict)(GRID[own], seen, GRID[places]))
        for places in (later, every)
    )
    known = fit_known(own[:, :SEEN], seen[:, :SEEN])
    print("RMSE                   latent ODE       RNN   shape known")
    for name, places, theirs in (
        ("where seen", every - 100, None),
        ("30 times after", later, in_30),
        ("100 times after", every, in_100),
    ):
        found = at(places, ours), theirs, at(places, known)
        row = ["-" if x is None else f"{rmse(x, at(places, true)):.4f}" for x in found]
        print(f"{name:20} {row[0]:>12} {row[1]:>9} {row[2]:>13}")
    print(f"{'published, 100 after':20} {PUBLISHED[0]:12.4f} {PUBLISHED[1]:9.4f}")
    found = {"true": true, "latent ODE": ours, "RNN": in_30, "known": known}
    draw(seen[:, :SEEN], later, found)
