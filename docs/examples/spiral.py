"""SciML's benchmark of neural ODE training: a spiral, and a network of fifty units.

The field (y^3) A is learned by 2-50-2 tanh units on y^3 from thirty points of one path,
in 500 steps of Adam. SciML's page gives the loss at the end, a sum of squares, for
torchdiffeq and for two settings of DiffEqFlux (PUBLISHED). Here are ten networks, and
beside them the same training with Diffrax alone, which is to give the same losses.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxode


jax.config.update("jax_enable_x64", True)

# https://gist.github.com/ChrisRackauckas/4a4d526c15cc4170ce37da837bfc32c4
PUBLISHED = {"torchdiffeq": 0.0596, "DiffEqFlux": 0.04895, "DiffEqFlux, tuned": 0.02762}
Y0, TS = jnp.array([2.0, 0.0]), jnp.linspace(0.0, 1.5, 30)
RTOL, ATOL, DT0 = 1e-7, 1e-9, 0.01
SEEDS, STEPS = 10, 500


class Field(eqx.Module):
    net: eqx.nn.MLP

    def __init__(self, key):
        self.net = eqx.nn.MLP(2, 2, 50, 1, jnp.tanh, key=key)

    def __call__(self, t, y, args):
        return self.net(y**3)


def spiral(t, y, args):
    return y**3 @ jnp.array([[-0.1, 2.0], [-2.0, -0.1]])


def solve(field, ts=TS):
    settings: Any = dict(rtol=RTOL, atol=ATOL, dt0=DT0, throw=False)
    return jaxode.odeint(field, Y0, ts, **settings).ys


def solve_by_diffrax(field):
    controller = diffrax.PIDController(RTOL, ATOL)
    save = diffrax.SaveAt(ts=TS)
    times: Any = dict(t0=TS[0], t1=TS[-1], dt0=DT0, saveat=save, max_steps=256)
    solver, term = diffrax.Dopri5(), diffrax.ODETerm(field)
    settings: Any = dict(stepsize_controller=controller, throw=False)
    return diffrax.diffeqsolve(term, solver, y0=Y0, **times, **settings).ys


def train(key, data, solve):
    """Losses and weights of one network: `(500,)`, and a pytree."""
    arrays, static = eqx.partition(Field(key), eqx.is_array)
    optimiser = optax.adam(0.05)

    def loss_fn(arrays):
        return jnp.sum((solve(eqx.combine(arrays, static)) - data) ** 2)

    def step(carry, _):
        arrays, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(arrays)
        updates, state = optimiser.update(grads, state)
        return (eqx.apply_updates(arrays, updates), state), loss

    start = arrays, optimiser.init(arrays)
    (arrays, _), losses = jax.lax.scan(step, start, length=STEPS)
    return losses, eqx.combine(arrays, static)


def draw(losses, field, data):
    _, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    side = jnp.linspace(-2.3, 2.3, 25)
    plane = jnp.stack(jnp.meshgrid(side, side), -1)
    flow = jax.vmap(jax.vmap(lambda y: field(0.0, y, None)))(plane)
    arrows = dict(color="0.85", linewidth=0.8, arrowsize=0.8)
    axes[0].streamplot(
        np.array(side), np.array(side), *flow.transpose(2, 0, 1), **arrows
    )
    later = jnp.linspace(0.0, 10.0, 800)
    goes_on = jaxode.odeint(spiral, Y0, later).ys
    axes[0].plot(*goes_on.T, color="0.3", lw=1, ls="--", label="true, to time 10")
    axes[0].plot(*solve(field, later).T, color="tab:blue", lw=1, label="learned")
    axes[0].plot(*data.T, "o", color="tab:orange", ms=5, label="seen, to time 1.5")
    axes[0].set(aspect="equal", title="the path, and the field learned")
    below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    axes[0].legend(**below, frameon=False, fontsize=8, columnspacing=1)
    axes[1].semilogy(losses.T, color="tab:blue", alpha=0.25, lw=1)
    axes[1].semilogy(np.median(losses, 0), color="tab:blue", label="median of ten")
    for (name, value), colour in zip(PUBLISHED.items(), ("C3", "C2", "C4")):
        axes[1].axhline(value, color=colour, ls="--", lw=1, label=f"{name}, at 500")
    axes[1].set(xlabel="step of Adam", title="loss, a sum of squares")
    axes[1].legend(frameon=False, fontsize=8)
    plt.savefig("spiral.png", dpi=150)


if __name__ == "__main__":
    data = jaxode.odeint(spiral, Y0, TS, rtol=RTOL, atol=ATOL).ys
    keys = jax.random.split(jax.random.key(0), SEEDS)
    run = lambda solve: eqx.filter_jit(eqx.filter_vmap(train, in_axes=(0, None, None)))(
        keys, data, solve
    )
    (losses, fields), (peers, _) = run(solve), run(solve_by_diffrax)
    print("after   least   median   most   largest difference to plain Diffrax")
    for i in (99, 299, 499):
        low, middle, high = np.quantile(losses[:, i], (0, 0.5, 1))
        apart = np.abs(losses[:, i] / peers[:, i] - 1).max()
        print(f"{i + 1:5} {low:7.4f} {middle:8.4f} {high:6.4f} {apart:13.0e}")
    print("published, after 500:", *(f"{k} {v};" for k, v in PUBLISHED.items()))
    typical = np.argsort(losses[:, -1])[SEEDS // 2]
    draw(
        losses,
        jax.tree.map(lambda x: x[typical] if eqx.is_array(x) else x, fields),
        data,
    )
