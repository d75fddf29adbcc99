"""What each adjoint costs on a field of one's own: a table and a picture.

    python docs/examples/compare.py                      a minute or two
    python docs/examples/compare.py out.png 1e-2 1e-4    picture and tolerances

The field is a small network for a state of two numbers, and it is to follow spirals.
Put your own in its place: any function or Equinox module, on any pytree.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxode


class Field(eqx.Module):
    """dy/dt = network(y) - decay y, for a batch of states."""

    mlp: eqx.nn.MLP
    decay: jax.Array

    def __init__(self, *, key):
        self.mlp = eqx.nn.MLP(2, 2, 32, 2, activation=jnp.tanh, key=key)
        self.decay = jnp.array(0.5)

    def __call__(self, t, y, args):
        return jax.vmap(self.mlp)(y) - self.decay * y


def spiral(t, y, args):
    turn = jnp.array([[-0.1, 2.0], [-2.0, -0.1]])
    return y**3 @ turn.T


def loss_fn(field, y0, ts, data):
    return jnp.mean((jaxode.odeint(field, y0, ts).ys - data) ** 2)


if __name__ == "__main__":
    picture = sys.argv[1] if len(sys.argv) > 1 else "adjoints.png"
    rtols = [float(text) for text in sys.argv[2:]] or [1e-1, 1e-3, 1e-5]

    ts = jnp.linspace(0.0, 5.0, 11)
    y0 = 2.0 * jax.random.normal(jax.random.key(0), (64, 2))
    data = jaxode.odeint(spiral, y0, ts).ys
    field = Field(key=jax.random.key(1))

    comparison = jaxode.compare_adjoints(loss_fn, field, y0, ts, data, rtols=rtols)
    print(comparison)
    comparison.plot(picture)
    print(f"picture in {picture}")
