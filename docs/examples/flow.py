"""A flow that is trained to fit two moons, with and without a price on its paths.

The log-density is a running cost, and so are the kinetic energy and the norm of the
Jacobian, which make a flow cheaper to solve (Finlay et al. 2020, arXiv:2002.02798).
Prints the loss and the field calls of one solve. Then a flow trained for longer, on the
same held-out points as the density that drew them, as kernels around 2,000 points
(scikit-learn, width by cross-validation), and as a mixture of 20 Gaussians.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

import jaxode


NOISE = 0.1


class Field(eqx.Module):
    net: eqx.nn.MLP

    def __call__(self, t, y, args):
        time = jnp.full((len(y), 1), t, y.dtype)
        return jax.vmap(self.net)(jnp.concatenate([y, time], axis=1))


def arcs(angle, side):
    return 2 * jnp.stack(
        [side * (jnp.cos(angle) - 0.5), side * (jnp.sin(angle) - 0.25)], 1
    )


def moons(key, size=256):
    angle_key, noise_key = jax.random.split(key)
    angle = jnp.pi * jax.random.uniform(angle_key, (size,))
    x = arcs(angle, jnp.where(jnp.arange(size) % 2 == 0, 1.0, -1.0))
    return x + NOISE * jax.random.normal(noise_key, x.shape)


def loss_fn(field, key, price):
    data_key, noise_key = jax.random.split(key)
    y = moons(data_key)
    noise = jax.random.rademacher(noise_key, y.shape, y.dtype)
    divergence, kinetic = jaxode.nn.Divergence(field), jaxode.nn.KineticEnergy(field)
    costs = divergence, kinetic, jaxode.nn.JacobianNorm(field, noise)
    cost = lambda t, y, args: [c(t, y, args) for c in costs]
    ts = jnp.array([1.0, 0.0])  # from the data to the normal distribution
    sol = jaxode.odeint(field, y, ts, cost=cost, rtol=1e-4, atol=1e-4, throw=False)
    divergence, kinetic, jacobian = (-c[-1] for c in sol.cost)
    log_p = jax.scipy.stats.norm.logpdf(sol.ys[-1]).sum(axis=1) - divergence
    # The price is for each sample and each dimension.
    return -log_p.mean() + price * (kinetic + jacobian) / y.size, (log_p, sol.stats)


def log_density(field, y):
    """What the flow learned: the log of the normal distribution where y comes from."""
    cost = jaxode.nn.Divergence(field)
    sol = jaxode.odeint(field, y, [1.0, 0.0], cost=cost, rtol=1e-5, atol=1e-5)
    return jax.scipy.stats.norm.logpdf(sol.ys[-1]).sum(axis=1) + sol.cost[-1]


def true_log_density(y):
    """The noise around the arcs, averaged over a thousand points of them."""
    angle = (jnp.arange(500) + 0.5) * jnp.pi / 500
    centres = jnp.concatenate([arcs(angle, 1.0), arcs(angle, -1.0)])
    near = lambda y: jax.scipy.stats.norm.logpdf(y - centres, scale=NOISE).sum(axis=1)
    each = jax.lax.map(near, y, batch_size=1000)
    return jax.nn.logsumexp(each, axis=1) - jnp.log(len(centres))


def train(price, steps=400):
    field = Field(eqx.nn.MLP(3, 2, 32, 2, jnp.tanh, key=jax.random.key(0)))
    optimiser = optax.adam(5e-3)
    state = optimiser.init(eqx.filter(field, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(field, state, key):
        value_and_grad = jaxode.value_and_grad_with_stats(loss_fn, has_aux=True)
        (_, (log_p, stats)), grads, back = value_and_grad(field, key, price)
        updates, state = optimiser.update(grads, state)
        return eqx.apply_updates(field, updates), state, log_p.mean(), stats, back

    keys = jax.random.split(jax.random.key(1), steps)
    for key in keys[:-1]:
        field, state, *_ = step(field, state, key)
    _, _, log_p, stats, back = step(field, state, keys[-1])
    print(f"price {price}: -log p {-log_p:.3f}, {stats.nfe} calls, {back.nfe:.0f} back")
    return field


def draw(densities, points):
    _, axes = plt.subplots(1, 4, figsize=(12, 2.7), layout="constrained")
    side = jnp.linspace(-3.6, 3.6, 145)
    plane = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    axes[0].scatter(*points.T, s=1, color="tab:blue")
    axes[0].set_title("2,000 points")
    for axis, (name, (log_p, fit)) in zip(axes[1:], densities.items()):
        p = np.exp(log_p(plane)).reshape(145, 145)
        axis.pcolormesh(side, side, p, vmin=0, vmax=0.35, cmap="magma", rasterized=True)
        axis.set_title(f"{name}: {fit:.3f}")
    for axis in axes:
        axis.set(aspect="equal", xlim=(-3.6, 3.6), ylim=(-2.6, 2.6))
        axis.set(xticks=[], yticks=[])
    plt.savefig("flow.png", dpi=150)


if __name__ == "__main__":
    for price in (0.0, 0.01, 0.1):
        train(price)
    field = train(0.01, steps=1000)
    seen, held_out = moons(jax.random.key(2), 2000), moons(jax.random.key(3), 4000)
    widths = {"bandwidth": np.geomspace(0.05, 0.3, 8)}
    kernels = GridSearchCV(KernelDensity(), widths).fit(seen).best_estimator_
    mixture = GaussianMixture(20, random_state=0).fit(seen)
    by_name = {
        "flow": lambda y: log_density(field, y),
        "kernels": kernels.score_samples,
        "mixture": mixture.score_samples,
        "true": true_log_density,
    }
    fits = {name: float(-log_p(held_out).mean()) for name, log_p in by_name.items()}
    print(
        "-log p of 4,000 held-out points:", *(f"{k} {v:.3f}" for k, v in fits.items())
    )
    shown = ("flow", "kernels", "true")
    draw({name: (by_name[name], fits[name]) for name in shown}, seen)
