"""A disk inside a ring, told apart by a neural ODE, with and without room to pass.

A flow of the plane cannot take a disk out of the ring around it: trajectories do not
cross. Dupont, Doucet & Teh 2019 (arXiv:1904.01681) add dimensions that start at zero,
in which it can. Prints the loss, the points on the right side, and the field calls of
a solve, which tell how hard the flow has become.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxode


class Field(eqx.Module):
    net: eqx.nn.MLP

    def __call__(self, t, y, args):
        return jax.vmap(self.net)(y)


class Classifier(eqx.Module):
    field: Field
    head: eqx.nn.Linear
    added: int = eqx.field(static=True)

    def __init__(self, added, *, key):
        field_key, head_key = jax.random.split(key)
        size = 2 + added
        net = eqx.nn.MLP(size, size, 32, 2, jax.nn.relu, key=field_key)
        self.field, self.added = Field(net), added
        self.head = eqx.nn.Linear(size, "scalar", key=head_key)

    def __call__(self, x):
        y0 = jnp.pad(x, ((0, 0), (0, self.added)))
        solve = partial(jaxode.odeint, rtol=1e-3, atol=1e-3, throw=False)
        sol = solve(self.field, y0, [0.0, 1.0])
        return jax.vmap(self.head)(sol.ys[-1]), sol


def points(key, size=512):
    radius_key, angle_key = jax.random.split(key)
    is_ring = jnp.arange(size) % 2 == 1
    low, high = jnp.where(is_ring, 1.0, 0.0), jnp.where(is_ring, 1.5, 0.5)
    part = jax.random.uniform(radius_key, (size,))
    radius = jnp.sqrt(low**2 + part * (high**2 - low**2))
    angle = jax.random.uniform(angle_key, (size,), maxval=2 * jnp.pi)
    x = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    return x, jnp.where(is_ring, 1.0, -1.0)


def train(added, steps=600):
    model = Classifier(added, key=jax.random.key(1))
    optimiser = optax.adam(3e-3)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))

    def loss_fn(model, x, label):
        out, sol = model(x)
        return jnp.mean((out - label) ** 2), (jnp.mean(out * label > 0), sol.stats.nfe)

    @eqx.filter_jit
    def step(model, state, key):
        value_and_grad = eqx.filter_value_and_grad(loss_fn, has_aux=True)
        (loss, (right, nfe)), grads = value_and_grad(model, *points(key))
        updates, state = optimiser.update(grads, state)
        return eqx.apply_updates(model, updates), state, (loss, right, nfe)

    history = []
    for key in jax.random.split(jax.random.key(2), steps):
        model, state, one = step(model, state, key)
        history.append([float(x) for x in one])
    loss, right, nfe = np.mean(history[-20:], axis=0)
    print(f"{added} added: loss {loss:.4f}, {right:.2%} right, {nfe:.0f} field calls")
    return model, np.array(history)


if __name__ == "__main__":
    _, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    grid = jnp.linspace(-2.0, 2.0, 121)
    plane = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2)
    x, label = points(jax.random.key(5), 300)
    for axis, added, colour in zip(axes, (0, 3), ("tab:red", "tab:blue")):
        model, history = train(added)
        out = model(plane)[0].reshape(121, 121)
        levels = np.linspace(-1.5, 1.5, 31)
        axis.contourf(grid, grid, out, levels, cmap="RdBu_r", extend="both", alpha=0.8)
        axis.contour(grid, grid, out, [0.0], colors="k", linewidths=1)
        axis.scatter(*x.T, c=label, s=6, cmap="RdBu_r", edgecolors="k", linewidths=0.3)
        axis.set(
            title=f"{added} dimensions added", aspect="equal", xticks=[], yticks=[]
        )
        smooth = np.convolve(history[:, 0], np.ones(10) / 10, "valid")
        axes[2].semilogy(smooth, color=colour, label=f"{added} added")
    axes[2].set(xlabel="step", title="loss")
    axes[2].legend(frameon=False)
    plt.savefig("nested_spheres.png", dpi=150)
