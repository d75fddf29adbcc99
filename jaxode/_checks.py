"""What `odeint` accepts, and what it says to everything else."""

import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def _shape(tree: PyTree) -> str:
    """Structure, shapes and dtypes in one line, for messages."""
    return eqx.tree_pformat(tree, width=1_000, struct_as_array=True)


def check_state(y0: PyTree) -> PyTree[Array]:
    """`y0` with arrays for leaves.

    Raises:
        ValueError: where it has no leaves.
        TypeError: where a leaf is no floating-point or complex number of at least 32
            bits, or the leaves are not of one precision.
    """
    leaves = jax.tree_util.tree_leaves_with_path(y0)
    if not leaves:
        raise ValueError("y0 has no leaves; pass an array or a pytree of arrays.")
    dtypes = {}
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        where = "y0" + jax.tree_util.keystr(path)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{where} has dtype {dtype}, and an ODE's state must be floating; "
                f"pass {where}.astype(float)."
            )
        if jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"{where} has dtype {dtype}, too coarse for time steps and error "
                f"estimates; pass {where}.astype(jnp.float32), and cast inside the "
                "field where half precision is wanted."
            )
        dtypes[jnp.finfo(dtype).dtype] = f"{where} in {dtype}"
    if len(dtypes) > 1:
        raise TypeError(
            f"y0 mixes precisions: {', '.join(dtypes.values())}; pass all leaves in "
            "one, such as jax.tree.map(lambda x: x.astype(jnp.float32), y0)."
        )
    # The dtype is named so that a Python number does not stay weakly typed.
    return jax.tree.map(lambda y: jnp.asarray(y, jnp.result_type(y)), y0)


def precision(y0: PyTree[Array]) -> jnp.dtype:
    """The real dtype of a state whose leaves have passed `check_state`."""
    return jnp.finfo(jax.tree.leaves(y0)[0].dtype).dtype


def check_times(ts: Any, y0: PyTree[Array], throw: bool) -> Array:
    """`ts` as an array of the state's real precision.

    Raises:
        TypeError: for integers.
        ValueError: for fewer than two times, or times that are NaN, equal to their
            neighbour, or not in order. Where `ts` is traced, the last three are
            checked at run time if `throw` is set.
    """
    ts = jnp.asarray(ts)
    if not jnp.issubdtype(ts.dtype, jnp.floating):
        raise TypeError(
            f"ts has dtype {ts.dtype}; times must be floating, such as "
            "jnp.array([0.0, 1.0])."
        )
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(
            f"ts has shape {ts.shape}; pass at least two times in one dimension, such "
            "as jnp.array([t0, t1])."
        )
    # Diffrax promotes the state to the precision of the times. A user who hands over
    # a float32 state wants a float32 solve, so the times follow the state instead.
    real = precision(y0)
    ts = ts.astype(real)
    if is_concrete(ts):
        shown = np.array2string(np.asarray(ts), threshold=8)
        steps: Any = np.diff(np.asarray(ts))
        if np.isnan(np.asarray(ts)).any():
            raise ValueError(f"ts holds a NaN: {shown}.")
        if (steps == 0).any():
            raise ValueError(
                f"ts has equal neighbours: {shown}; pass each time once (in {real}, "
                "the precision of y0)."
            )
        if not ((steps > 0).all() or (steps < 0).all()):
            raise ValueError(
                f"ts is not in order: {shown}; sort it, increasing or decreasing."
            )
    elif throw:
        steps = jnp.diff(jax.lax.stop_gradient(ts))
        in_order = jnp.all(steps > 0) | jnp.all(steps < 0)
        ts = eqx.error_if(
            ts,
            ~in_order,
            "ts must be strictly increasing or strictly decreasing, without NaN.",
        )
    return ts


def check_kinds(solver: Any, controller: Any) -> None:
    """Raises `TypeError` where one of the two is no Diffrax object of its kind."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver must be a Diffrax solver such as diffrax.Dopri5(); got {solver!r}."
        )
    if controller is not None and not isinstance(
        controller, diffrax.AbstractAdaptiveStepSizeController
    ):
        raise TypeError(
            f"controller must be an adaptive one such as diffrax.PIDController(...); "
            f"got {controller!r}. For fixed steps pass rtol=None and dt0=..."
        )


def check_step_control(
    solver: diffrax.AbstractSolver,
    rtol: Any,
    atol: Any,
    dt0: Any,
    max_steps: Any,
) -> None:
    """Checks that the settings say how to choose steps.

    Raises:
        ValueError: for settings that contradict each other, each other's sign, or
            the solver.
    """
    if max_steps is not None and (not isinstance(max_steps, int) or max_steps < 1):
        raise ValueError(f"max_steps must be a positive integer; got {max_steps!r}.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and is_concrete(value) and not value > 0:
            raise ValueError(f"{name} must be positive; got {value}.")
    adaptive = isinstance(solver, diffrax.AbstractAdaptiveSolver)
    name = type(solver).__name__
    if rtol is not None and not adaptive:
        raise ValueError(
            f"{name} has no error estimate, so it cannot meet rtol={rtol}; pass "
            "rtol=None and dt0=... for fixed steps, or a solver such as "
            "diffrax.Dopri5()."
        )
    if rtol is None and dt0 is None:
        raise ValueError(
            "rtol=None asks for fixed steps, and dt0=None does not say how long; pass "
            "dt0=... or rtol=..."
        )
    if rtol is not None and atol is None:
        raise ValueError("atol is None; pass atol=... with rtol=...")


def in_precision(x: Any, dtype: jnp.dtype) -> Any:
    """An array in `dtype`; a Python number, which takes on any dtype, as it is."""
    return x if x is None or type(x) in (int, float) else jnp.asarray(x, dtype)


def check_first_step(dt0: Any, ts: Array, throw: bool) -> Array:
    """The length of the first step, or the bound on fixed steps, in the dtype of `ts`.

    Raises:
        ValueError: where `dt0` is not one finite number that points along `ts`. Where
            one of them is traced, this is checked at run time if `throw` is set.
    """
    if np.ndim(dt0) != 0:
        raise ValueError(f"dt0 must be one number; got shape {np.shape(dt0)}.")
    if is_concrete(dt0) and not (np.isfinite(dt0) and dt0 != 0):
        raise ValueError(f"dt0 must be finite and not zero; got {dt0}.")
    forwards = ts[-1] > ts[0]
    step = jnp.asarray(dt0, ts.dtype)
    along = jnp.isfinite(step) & jnp.where(forwards, step > 0, step < 0)
    if is_concrete(along):
        if not along:
            raise ValueError(
                f"dt0={dt0} points away from ts, which runs from {ts[0]} to {ts[-1]}; "
                f"pass dt0={-dt0}."
            )
    elif throw:
        message = "dt0 must be finite, not zero, and have the sign of ts[-1] - ts[0]."
        step = eqx.error_if(step, ~along, message)
    return jnp.abs(step)


def captured_arrays(field: Any, t: Array, y0: PyTree, args: PyTree) -> tuple[Any, Any]:
    """Traces the field once: checks what it returns and finds what it closes over.

    Returns:
        The field, rewritten to hold the traced arrays it captured as leaves where it
        captured any; and these arrays.

    Raises:
        TypeError: where the field is not callable.
        ValueError: where its output does not match `y0`.
    """
    if not callable(field):
        raise TypeError(f"field must be callable as field(t, y, args); got {field!r}.")

    # A partial, because Equinox passes over functions that have no closure themselves,
    # and the arrays looked for are those that `field` captured.
    call = functools.partial(_call)
    jaxpr, out_dynamic, out_static = eqx.filter_make_jaxpr(call)(field, t, y0, args)
    check_output(eqx.combine(out_dynamic, out_static), y0)
    captured = [c for c in jaxpr.consts if isinstance(c, Tracer)]
    if not captured:
        return field, []
    closed = eqx.filter_closure_convert(call, field, t, y0, args)
    return _Converted(closed, field), captured


def check_output(out: PyTree, y0: PyTree[Array]) -> None:
    """Raises `ValueError` where a field's output is not shaped like the state."""
    out = jax.tree.map(lambda o: jax.eval_shape(jnp.asarray, o), out)
    expected = jax.eval_shape(lambda: y0)
    same = jax.tree.structure(out) == jax.tree.structure(expected) and all(
        o.shape == e.shape and o.dtype == e.dtype
        for o, e in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True)
    )
    if not same:
        raise ValueError(
            f"field(t, y, args) returned {_shape(out)}, but y0 is {_shape(expected)}; "
            "dy/dt must have the structure, shapes and dtypes of y."
        )


def _call(field: Any, t: Any, y: PyTree, args: PyTree) -> PyTree:
    return field(t, y, args)


class _Converted(eqx.Module):
    """A field whose captured arrays are leaves."""

    closed: Any
    field: Any

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> PyTree:
        return self.closed(self.field, t, y, args)
