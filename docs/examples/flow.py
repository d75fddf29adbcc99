"""A flow that is trained to fit two moons, with and without a price on its paths.

The log-density is a running cost, and so are the kinetic energy and the norm of the
Jacobian, which make a flow cheaper to solve (Finlay et al. 2020, arXiv:2002.02798).
Prints the loss and the field calls of one solve, before and after.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import jaxode


class Field(eqx.Module):
    net: eqx.nn.MLP

    def __call__(self, t, y, args):
        time = jnp.full((len(y), 1), t, y.dtype)
        return jax.vmap(self.net)(jnp.concatenate([y, time], axis=1))


def moons(key, size=256):
    angle_key, noise_key = jax.random.split(key)
    angle = jnp.pi * jax.random.uniform(angle_key, (size,))
    side = jnp.where(jnp.arange(size) % 2 == 0, 1.0, -1.0)
    x = jnp.stack([side * (jnp.cos(angle) - 0.5), side * (jnp.sin(angle) - 0.25)], 1)
    return 2 * x + 0.1 * jax.random.normal(noise_key, x.shape)


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


if __name__ == "__main__":
    for price in (0.0, 0.01, 0.1):
        train(price)
