"""The error norm of a batch of which each device of a mesh holds a part.

Every decision about a step follows from a norm (the first step, whether one is kept,
how long the next one is), so devices that pool theirs take the same steps, those of one
device with the whole batch. What they exchange for that is one number each time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .lanes import varying_over


class Augmented(NamedTuple):
    """State of a backward solve, or anything shaped like it.

    Attributes:
        y: The state.
        a: Its cotangent.
        g: Those of the parameters.
    """

    y: PyTree
    a: PyTree
    g: PyTree


class PooledNorm(eqx.Module):
    """The error norm over all parts of a batch that `jax.shard_map` has divided.

        def part(params, y0):  # y0: the rows of this device
            return jaxode.odeint(field, y0, ts, params, norm=jaxode.PooledNorm("batch"))

    The parts then take the steps that the whole batch would take on one device, to
    rounding, and exchange one number for each error norm. Under `jax.vmap(...,
    axis_name="batch")` it does the same for lanes. `docs/scaling.md` has the rest.

    Attributes:
        axis_name: The axis of the mesh, or several, over which the batch is divided.
        samples: How many rows of the whole batch count, where it was filled up so that
            it could be divided: the first so many. The batch is then the leading axis
            of every array of the state. All count if `None`.
        shared: Whether all parameters are the same on all devices, though they vary
            over the mesh by their type, as after `jax.lax.pcast`. By default their type
            tells. For the norm of `backsolve`, which measures their cotangents too.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> decay = lambda t, y, args: -y
        >>> settings = dict(norm=jaxode.PooledNorm("batch"), throw=False)
        >>> solve = lambda y: jaxode.odeint(decay, y, [0.0, 1.0], **settings)
        >>> rows = jax.vmap(solve, axis_name="batch")(jnp.array([1.0, 99.0]))
        >>> steps = rows.stats.num_steps
        >>> bool(steps[0] == steps[1])  # without the norm each has its own
        True
    """

    axis_name: str | tuple[str, ...] = eqx.field(static=True)
    samples: int | None = eqx.field(static=True, default=None)
    shared: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        names = self.axes
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"PooledNorm got axis_name={self.axis_name!r}; pass the name of a mesh "
                'axis, such as PooledNorm("batch"), or a tuple of names.'
            )
        if self.samples is not None and self.samples < 1:
            raise ValueError(
                f"PooledNorm got samples={self.samples}; pass how many rows of the "
                "batch count, or leave it out where all do."
            )

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes."""
        name = self.axis_name
        return (name,) if isinstance(name, str) else tuple(name)

    def __call__(self, tree: PyTree) -> Float[Array, ""]:
        """The root mean square over the whole batch, as `optimistix.rms_norm`."""
        return PartNorm(self)(tree)


class PartNorm(eqx.Module):
    """A `PooledNorm` that knows what it is shown.

    Attributes:
        pool: Over what to pool.
        unpack: Turns a state as it is integrated into one with leading batch axes.
        summed: For each array of the parameters, whether every device has a part of the
            sum that is its cotangent; otherwise the parameter itself is divided.
        seminorm: Whether to leave the parameters out.
    """

    pool: PooledNorm
    unpack: Callable[[PyTree], PyTree] | None = eqx.field(static=True, default=None)
    summed: tuple[bool, ...] = eqx.field(static=True, default=())
    seminorm: bool = eqx.field(static=True, default=False)

    def __call__(self, tree: PyTree) -> Float[Array, ""]:
        tree = lax.stop_gradient(tree)
        parts, totals = [tree], []
        if isinstance(tree, Augmented):
            divided, totals = self._parameters(tree.g)
            parts = [tree.y, tree.a]
        else:
            divided = []
        found = [self._of_state(part) for part in parts]
        found += [(_squares(x), x.size * self._num_parts) for x in divided]
        # Parameters may be held in another precision than the state.
        with jax.numpy_dtype_promotion("standard"):
            local = jnp.sum(jnp.stack([s for s, _ in found]))
        squares = total_over(local, self.pool.axes)
        squares = squares + sum(_squares(x) for x in totals)
        count = sum(n for _, n in found) + sum(x.size for x in totals)
        return jnp.sqrt(squares / max(count, 1))

    @property
    def _num_parts(self) -> int:
        return math.prod(lax.axis_size(name) for name in self.pool.axes)

    def _parameters(self, g: PyTree) -> tuple[list[Array], list[Array]]:
        """Arrays of the parameters that are divided, and those that are whole."""
        if self.seminorm:
            return [], []
        leaves = list(zip(jax.tree.leaves(g), self.summed, strict=True))
        return [x for x, s in leaves if not s], [x for x, s in leaves if s]

    def _of_state(self, state: PyTree) -> tuple[Array, int]:
        """Sum of squares of this device's part, and count of the whole."""
        samples, num_parts = self.pool.samples, self._num_parts
        if samples is None:
            leaves = jax.tree.leaves(state)
            zero = jnp.zeros((), jnp.result_type(float))
            squares = sum((_squares(x) for x in leaves), start=0) if leaves else zero
            return jnp.asarray(squares), sum(x.size for x in leaves) * num_parts
        if self.unpack is not None:
            state = self.unpack(state)
        squares, count = [], 0
        for x in jax.tree.leaves(state):
            counts = rows_that_count(x, samples, self.pool.axis_name, num_parts)
            mask = jnp.reshape(counts, (-1,) + (1,) * (x.ndim - 1))
            squares.append(_squares(jnp.where(mask, x, 0)))
            count += x.size // x.shape[0] * samples
        return sum(squares[1:], start=squares[0]), count


def rows_that_count(
    x: Array, samples: int, axis_name: str | tuple[str, ...], num_parts: int
) -> Array:
    """Which rows of a device's part are among the first `samples` of the whole.

    Raises:
        ValueError: where the whole has fewer.
    """
    rows = x.shape[0] if x.ndim else 0
    if rows * num_parts < samples:
        raise ValueError(
            f"PooledNorm got samples={samples}, and the {num_parts} parts along "
            f"{axis_name!r} have {rows} rows each, {rows * num_parts} in all; pass how "
            "many of these count, and a state whose arrays all have the batch in front."
        )
    first = lax.axis_index(axis_name) * rows
    return first + jnp.arange(rows, dtype=first.dtype) < samples


def with_totals(norm: Any, *states: PyTree) -> tuple[PyTree, ...]:
    """What a controller is to see of states, errors and the like.

    A parameter that all devices share has a cotangent that is the sum of theirs, and
    tolerances are for the sum. One exchange adds them all up.
    """
    if not isinstance(norm, PartNorm) or not isinstance(states[0], Augmented):
        return states
    if norm.seminorm:
        return tuple(state._replace(g=None) for state in states)
    leaves, structure = jax.tree.flatten([state.g for state in states])
    flags = norm.summed * len(states)
    shared = [x for x, is_summed in zip(leaves, flags, strict=True) if is_summed]
    totals = iter(summed_at_once(shared, norm.pool.axes))
    leaves = [
        next(totals) if is_summed else x
        for x, is_summed in zip(leaves, flags, strict=True)
    ]
    gs = jax.tree.unflatten(structure, leaves)
    return tuple(state._replace(g=g) for state, g in zip(states, gs, strict=True))


def total_over(x: Array, axes: tuple[str, ...]) -> Array:
    """The sum over mesh axes, of one that need not vary there by its type."""
    manual = set(jax.sharding.get_abstract_mesh().manual_axes)
    return lax.psum(varying_over(x, manual & set(axes)), axes)


def summed_at_once(arrays: list[Array], axes: tuple[str, ...]) -> list[Array]:
    """Sums of arrays over mesh axes, in one exchange for each dtype."""
    out: list[Any] = list(arrays)
    for dtype in dict.fromkeys(x.dtype for x in arrays):
        places = [i for i, x in enumerate(arrays) if x.dtype == dtype]
        flat = jnp.concatenate([jnp.ravel(arrays[i]) for i in places])
        total = total_over(flat, axes)
        start = 0
        for i in places:
            size = arrays[i].size
            out[i] = jnp.reshape(total[start : start + size], arrays[i].shape)
            start += size
    return out


def _squares(x: Array) -> Float[Array, ""]:
    if jnp.iscomplexobj(x):
        return jnp.sum(jnp.square(x.real) + jnp.square(x.imag))
    return jnp.sum(jnp.square(x))
