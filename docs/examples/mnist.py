"""The classifier of the post "A Simple Introduction to Neural ODEs", on one page.

    python docs/examples/mnist.py            scikit-learn's digits, under a minute
    python docs/examples/mnist.py mnist      MNIST; experiments/mnist.py is much faster

Network, solve, loss, loop and test as in the post, in the same order.
"""

import sys
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxode


# The post's numbers are 16, 0.001, 0.9 and 10, on 60,000 images. The digits are 1,437:
# a larger rate makes up for the fewer steps.
BATCH_SIZE, LEARNING_RATE, MOMENTUM, EPOCHS = 16, 0.01, 0.9, 3

# To raise an error, the device would have to call the host in every solve.
odeint = partial(jaxode.odeint, adjoint="backsolve", rtol=0.1, atol=0.1, throw=False)


class Field(eqx.Module):
    """f in dx/dt = f(t, x): norm, ReLU, convolution, and the same norm again."""

    norm: eqx.nn.GroupNorm
    conv: eqx.nn.Conv2d

    def __init__(self, channels, *, key):
        self.norm = eqx.nn.GroupNorm(min(32, channels), channels)
        self.conv = eqx.nn.Conv2d(channels, channels, 3, padding=1, key=key)

    def __call__(self, t, x, args):
        x = jax.vmap(self.norm)(x)
        x = jax.nn.relu(x)
        x = jax.vmap(self.conv)(x)
        return jax.vmap(self.norm)(x)


class ODENet(eqx.Module):
    """Images to logits: convolution, ODE from time 0 to time 1, pool, linear."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    field: Field
    pool: eqx.nn.AvgPool2d
    linear: eqx.nn.Linear

    def __init__(self, channels=6, *, key):
        conv_key, field_key, linear_key = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(1, channels, 3, key=conv_key)
        self.norm = eqx.nn.GroupNorm(channels, channels)
        self.field = Field(channels, key=field_key)
        self.pool = eqx.nn.AvgPool2d(2, stride=2)
        self.linear = eqx.nn.Linear(channels * 13 * 13, 10, key=linear_key)

    def __call__(self, images):
        # (batch, 1, 28, 28) to (batch, 6, 26, 26)
        x0 = jax.nn.relu(jax.vmap(self.norm)(jax.vmap(self.conv)(images)))
        # The shape stays, and the whole batch is one ODE.
        x1 = odeint(self.field, x0, jnp.array([0.0, 1.0])).ys[-1]
        # (batch, 6, 13, 13) to (batch, 10)
        pooled = jax.vmap(self.pool)(x1)
        return jax.vmap(self.linear)(pooled.reshape(len(pooled), -1))


def cross_entropy(net, images, labels):
    logits = net(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(net, images, labels):
    optimiser = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    opt_state = optimiser.init(eqx.filter(net, eqx.is_array))

    @eqx.filter_jit
    def step(net, opt_state, images, labels):
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(net, images, labels)
        updates, opt_state = optimiser.update(grads, opt_state)
        return eqx.apply_updates(net, updates), opt_state, loss

    shuffle = np.random.default_rng(0)
    for epoch in range(EPOCHS):
        order = shuffle.permutation(len(images) // BATCH_SIZE * BATCH_SIZE)
        losses = []
        for batch in order.reshape(-1, BATCH_SIZE):
            net, opt_state, loss = step(net, opt_state, images[batch], labels[batch])
            losses.append(loss)
        print(f"epoch {epoch + 1}  loss {np.mean(losses):.3f}")
    return net


def test(net, images, labels):
    started = time.perf_counter()
    predict = eqx.filter_jit(lambda net, images: net(images).argmax(axis=-1))
    batches = np.array_split(images, -(-len(images) // 100))
    correct = (np.concatenate([predict(net, b) for b in batches]) == labels).sum()
    seconds = time.perf_counter() - started
    accuracy = correct / len(labels)
    print(f"accuracy on the test set: {accuracy:.2%} ({correct}/{len(labels)})")
    print(f"time: {seconds:.2f} seconds")


if __name__ == "__main__":
    data = jaxode.datasets.load(sys.argv[1] if len(sys.argv) > 1 else "digits")
    (images, labels), (test_images, test_labels) = data
    to_unit = lambda images: images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    net = ODENet(key=jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(eqx.filter(net, eqx.is_array)))
    print(f"{data.name}: {len(images):,} images, {size:,} parameters")
    net = train(net, to_unit(images), labels)
    test(net, to_unit(test_images), test_labels)
