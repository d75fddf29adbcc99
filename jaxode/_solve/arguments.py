"""What `odeint` accepts, and what it says to everything else."""

from typing import Any, get_origin

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .limits import check_max_steps, check_tolerances, is_usable_step, USUAL


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def check_state(y0: PyTree) -> PyTree[Array]:
    """`y0` with arrays for leaves.

    Raises:
        ValueError: where it has no leaves, or no numbers in them.
        TypeError: where a leaf is no floating-point or complex number of at least 32
            bits, or the leaves are not of one precision.
    """
    leaves = jax.tree_util.tree_leaves_with_path(y0)
    if not leaves:
        raise ValueError("y0 has no leaves; pass an array or a pytree of arrays.")
    # The norm of an error without components is 0 / 0.
    if all(np.size(leaf) == 0 for _, leaf in leaves):
        raise ValueError(
            f"y0 is empty (shape {np.shape(leaves[0][1])}); pass a state of at least"
            " one number, and leave out batches without samples."
        )
    dtypes = {}
    for path, leaf in leaves:
        dtype = jnp.result_type(leaf)
        where = "y0" + jax.tree_util.keystr(path)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{where} has dtype {dtype}, and an ODE's state must be floating; "
                f"pass jnp.asarray({where}, float)."
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


def as_constant(tree: PyTree) -> PyTree:
    """The same, as a constant to whatever differentiates it."""
    constant = lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x
    return jax.tree.map(constant, tree)


def check_times(ts: Any, y0: PyTree[Array], throw: bool) -> Array:
    """`ts` as an array of the state's real precision.

    Raises:
        TypeError: for integers.
        ValueError: for fewer than two times, or times that are not finite or turn
            round; equal neighbours are allowed. Where `ts` is traced by `jax.jit`, the
            last two are checked at run time if `throw` is set.
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
    # Times that are only differentiated, outside of `jax.jit`, have values to show.
    values = jax.lax.stop_gradient(ts)
    if is_concrete(values):
        _check_values(np.asarray(values))
    elif throw:
        steps = jnp.diff(values)
        in_order = jnp.all(steps >= 0) | jnp.all(steps <= 0)
        ts = eqx.error_if(
            ts,
            ~(in_order & jnp.all(jnp.isfinite(values))),
            "ts must be finite, and increasing or decreasing (equal neighbours are "
            "allowed); call odeint with these times outside of jax.jit to see them in "
            "the message.",
        )
    return ts


def _check_values(ts: np.ndarray) -> None:
    shown = np.array2string(ts, threshold=8)
    if not np.isfinite(ts).all():
        raise ValueError(
            f"ts holds a NaN or an infinity: {shown}; pass finite times only."
        )
    steps = np.diff(ts)
    if not ((steps >= 0).all() or (steps <= 0).all()):
        raise ValueError(
            f"ts is not in order: {shown}; sort it, increasing or decreasing."
        )


def check_kinds(solver: Any, controller: Any) -> None:
    """Checks that the two are Diffrax objects that can solve one ODE.

    Raises:
        TypeError: where one is no Diffrax object of its kind.
        ValueError: for a solver of split or stochastic equations.
    """
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(
            f"solver must be a Diffrax solver such as diffrax.Dopri5(); got {solver!r}."
        )
    # Several terms are asked for by a tuple or as `MultiTerm[...]`.
    terms = solver.term_structure
    kind = get_origin(terms) or terms
    if not isinstance(kind, type) or not issubclass(kind, diffrax.AbstractTerm):
        kind = diffrax.MultiTerm
    if issubclass(kind, diffrax.MultiTerm):
        raise ValueError(
            f"{type(solver).__name__} is for equations in several terms (split, "
            "symplectic or stochastic ones), and odeint has the one field; pass a "
            "solver such as diffrax.Dopri5() or, for stiff problems, "
            "diffrax.Kvaerno5(), or call diffrax.diffeqsolve with the terms."
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
        TypeError: for a tolerance or first step that is no number.
        ValueError: for settings that are no single positive number, or contradict
            each other or the solver.
    """
    check_max_steps(max_steps)
    for name, value in (("rtol", rtol), ("atol", atol), ("dt0", dt0)):
        if value is None:
            continue
        if not eqx.is_array_like(value) or np.iscomplexobj(value):
            raise TypeError(
                f"{name} must be a number such as {USUAL[name]}; got {value!r}."
            )
        if np.ndim(value) != 0:
            raise ValueError(f"{name} must be one number; got shape {np.shape(value)}.")
    check_tolerances(rtol, atol)
    if type(dt0) is int and dt0.bit_length() > 1000:
        raise ValueError("dt0 must be finite; got an integer beyond float64.")
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


def check_initial_step(dt0: Any, ts: Array, throw: bool) -> Array:
    """The length of the first step, or the bound on fixed steps, in the dtype of `ts`.

    Raises:
        ValueError: where `dt0` is not one finite number that points along `ts`. Where
            one of them is traced, this is checked at run time if `throw` is set.
    """
    if is_concrete(dt0) and not (np.isfinite(dt0) and dt0 != 0):
        raise ValueError(
            f"dt0 must be finite and not zero; got {dt0}. Pass a step such as dt0=0.1 "
            "or, with tolerances, dt0=None."
        )
    step = jnp.asarray(dt0, ts.dtype)
    along = is_usable_step(step, ts)
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
