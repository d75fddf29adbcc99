"""`compare_adjoints`: every adjoint at every tolerance on the user's own loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._solve.adjoints import Adjoint, AdjointObject, resolve_adjoint
from .._solve.arguments import check_kinds
from .._solve.stats import SolveCounts
from .group import Bounds, Group
from .measure import loss_with_probe
from .progress import bar
from .reference import reference_gradient
from .result import Comparison


def compare_adjoints(
    loss_fn: Callable,
    params: PyTree,
    *data: Any,
    adjoints: Sequence[Adjoint] | Mapping[str, Adjoint] = (
        "discrete",
        "backsolve",
        "checkpoint",
        "direct",
    ),
    solvers: Sequence[diffrax.AbstractSolver] | None = None,
    rtols: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
    atols: Sequence[float] | None = None,
    max_steps: int = 4096,
    rounds: int = 5,
    reference_rtol: float = 1e-10,
    reference_solver: diffrax.AbstractSolver | None = None,
    reference_max_steps: int = 65536,
    progress: bool = True,
) -> Comparison:
    """Measures the gradient of `loss_fn` under every adjoint, solver and tolerance.

        comparison = jaxode.compare_adjoints(loss_fn, params, images, labels)
        print(comparison)
        comparison.plot("adjoints.png")

    The adjoint, solver, tolerances, first step and bound on the steps of every `odeint`
    and `ODEBlock` inside the loss are replaced; the loss itself stays as it is. A cell
    that fails says why, and the rest goes on. Most of the time goes into compiling,
    once for each cell.

    Args:
        loss_fn: `loss_fn(params, *data)`, a floating scalar, or a pair of one and
            anything else. What it returns must depend on nothing but its arguments.
        params: Pytree whose floating arrays are differentiated.
        *data: Handed to the loss.
        adjoints: Names, or any objects that `odeint` takes; a mapping to choose what
            they are called in the table.
        solvers: Diffrax solvers with an error estimate. By default each solve keeps
            its own.
        rtols: Relative tolerances.
        atols: Absolute tolerance for each of them; by default the same numbers.
        max_steps: Steps after which a solve has failed. Each cell is compiled for no
            more than it takes, since `"checkpoint"` and `"direct"` pay for the bound.
        rounds: Rounds in which the adjoints take turns to be timed.
        reference_rtol: Both tolerances of the reference gradient, which is computed in
            double precision whatever the precision of the rest.
        reference_solver: Its solver, `diffrax.Dopri5()` by default. For a stiff
            problem `diffrax.Kvaerno5()`.
        reference_max_steps: Bound on its steps.
        progress: Whether a bar on standard error shows how far it is. It needs rich,
            which comes with `jaxode[experiments]`; without, there is none.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: for a loss that is no floating scalar, or objects of the wrong kind.
        ValueError: for an unknown adjoint, no adjoints or tolerances, parameters
            without a floating array, or a loss without a solve.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxode
        >>> decay = lambda t, y, rate: -rate * y
        >>> def loss_fn(rate, y0):
        ...     return jaxode.odeint(decay, y0, [0.0, 1.0], rate).ys[-1]
        >>> table = jaxode.compare_adjoints(
        ...     loss_fn,
        ...     jnp.array(2.0),
        ...     jnp.array(1.0),
        ...     adjoints=("discrete",),
        ...     rtols=(1e-3,),
        ...     progress=False,
        ... )
        >>> table.cells[0].gradient_error < 1e-2
        True
    """
    named_adjoints = _named_adjoints(adjoints)
    named_solvers = _named_solvers(solvers)
    ladder = _ladder(rtols, atols)
    arguments = jax.tree.map(_on_device, (params, *data))
    _check_loss(loss_fn, arguments)
    reference_solver = reference_solver or diffrax.Dopri5()
    check_kinds(reference_solver, None)
    num_cells = len(named_solvers) * len(ladder) * len(named_adjoints)
    cells = []
    with bar(progress, 1 + num_cells) as advance:
        reference, truth = reference_gradient(
            loss_fn, arguments, reference_solver, reference_rtol, reference_max_steps
        )
        advance("reference")
        for name, solver in named_solvers.items():
            bounds = Bounds(loss_fn, arguments, solver, max_steps)
            for rtol, atol in ladder:
                group = Group(loss_fn, arguments, name, solver, rtol, atol, truth)
                cells += group.measure(named_adjoints, bounds, rounds, advance)
    device = jax.devices()[0]
    where = f"{device.device_kind} ({device.platform})"
    return Comparison(tuple(cells), reference, where)


def _named_adjoints(
    adjoints: Sequence[Adjoint] | Mapping[str, Adjoint],
) -> dict[str, AdjointObject]:
    if isinstance(adjoints, str):
        raise TypeError(f"adjoints must be a sequence; pass adjoints=({adjoints!r},).")
    if not adjoints:
        raise ValueError("adjoints is empty; pass at least one, such as 'checkpoint'.")
    if isinstance(adjoints, Mapping):
        return {name: resolve_adjoint(a) for name, a in adjoints.items()}
    names = [a if isinstance(a, str) else type(a).__name__ for a in adjoints]
    return {
        name: resolve_adjoint(a)
        for name, a in zip(_numbered(names), adjoints, strict=True)
    }


def _named_solvers(
    solvers: Sequence[diffrax.AbstractSolver] | None,
) -> dict[str, diffrax.AbstractSolver | None]:
    if solvers is None:
        return {"as given": None}
    if not isinstance(solvers, Sequence) or not solvers:
        raise ValueError(
            f"solvers must be a sequence of Diffrax solvers, such as "
            f"(diffrax.Dopri5(),), or None for those of the loss; got {solvers!r}."
        )
    for solver in solvers:
        check_kinds(solver, None)
    names = _numbered([type(solver).__name__ for solver in solvers])
    return dict(zip(names, solvers, strict=True))


def _numbered(names: list[str]) -> list[str]:
    """The names, with a number where one has been before."""
    seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [
        f"{name} {count}" if count > 1 else name
        for name, count in zip(names, seen, strict=True)
    ]


def _ladder(
    rtols: Sequence[float], atols: Sequence[float] | None
) -> list[tuple[float, float]]:
    """The tolerances, pair by pair."""
    rtols = [float(rtol) for rtol in rtols]
    atols = rtols if atols is None else [float(atol) for atol in atols]
    if not rtols:
        raise ValueError("rtols is empty; pass at least one, such as rtols=(1e-3,).")
    if len(atols) != len(rtols):
        raise ValueError(
            f"got {len(rtols)} rtols and {len(atols)} atols; pass one atol for each "
            "rtol, or none for the same numbers."
        )
    for name, values in (("rtols", rtols), ("atols", atols)):
        if not all(0 < value < float("inf") for value in values):
            raise ValueError(f"{name} must be positive and finite; got {values}.")
    return list(zip(rtols, atols, strict=True))


def _on_device(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf


def _check_loss(loss_fn: Callable, arguments: tuple[Any, ...]) -> None:
    """Traces the loss as it is, so that its own errors come out as they are."""
    if not any(eqx.is_inexact_array(x) for x in jax.tree.leaves(arguments[0])):
        raise ValueError(
            "params holds no floating array, so there is no gradient to compare; pass "
            f"what is differentiated as the second argument. Got "
            f"{eqx.tree_pformat(arguments[0], width=1000)}."
        )
    arrays, static = eqx.partition(arguments, eqx.is_array)

    def traced(probe, arrays):
        return loss_with_probe(loss_fn, {}, probe, *eqx.combine(arrays, static))

    probe = SolveCounts.zeros()
    jaxpr = jax.make_jaxpr(traced)(probe, arrays).jaxpr
    of_probe = set(jaxpr.invars[: len(jax.tree.leaves(probe))])
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    if not any(id(v) in read for v in of_probe):
        raise ValueError(
            "loss_fn solves no ODE by jaxode.odeint or jaxode.nn.ODEBlock, so there is "
            "nothing to compare. Solves by diffrax.diffeqsolve are not seen: replace "
            "them by jaxode.odeint(field, y0, ts, args)."
        )
