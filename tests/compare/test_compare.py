"""The comparison of adjoints, on fields of which the answers are known."""

import functools
import json
import re
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ADJOINTS, each_adjoint, slope, unchecked_types

import jaxode
from jaxode._compare.verdict import _pace
from jaxode._jax_versions import enable_x64


RTOLS = (1e-3, 1e-6)
TS = (0.0, 2.0)
# Few stages, so that a cell compiles fast.
BOSH3 = diffrax.Bosh3()
HEUN = diffrax.Heun()


def rotate(t, y, args):
    return args["frequency"] * jnp.stack([-y[1], y[0]])


def contract(t, y, args):
    return -args["rate"] * y


def end_of(field, solver: Any = BOSH3, **settings):
    """A loss: the end of a solve, entries weighted so that a rotation has a slope."""

    def loss(params, y0):
        ts = jnp.asarray(TS, y0.dtype)
        ys = jaxode.odeint(field, y0, ts, params, solver=solver, **settings).ys
        return jnp.sum(jnp.asarray([1.0, -0.3], y0.dtype) * ys[-1])

    return loss


def compare(loss, params, *data, **settings: Any) -> Any:
    quick: dict[str, Any] = dict(rounds=2, progress=False, reference_rtol=1e-9)
    return jaxode.compare_adjoints(loss, params, *data, **(quick | settings))


@functools.cache
def rotation() -> Any:
    with enable_x64(True):
        params = {"frequency": jnp.asarray(1.5)}
        y0 = jnp.asarray([0.6, -0.8])
        return compare(end_of(rotate), params, y0, rtols=RTOLS)


def decay(**settings: Any) -> Any:
    params = {"rate": jnp.asarray(1.5)}
    loss = end_of(settings.pop("field", contract), HEUN)
    settings = dict(rtols=(1e-2,), adjoints=("discrete",)) | settings
    return compare(loss, params, jnp.asarray([0.6, -0.8]), **settings)


slowly_decaying = functools.cache(decay)


def column(name: str, adjoint: str) -> list[Any]:
    cells = [c for c in rotation().cells if c.adjoint == adjoint]
    return [getattr(cell, name) for cell in cells]


def cell_of(adjoint: str, rtol: float) -> Any:
    (cell,) = [c for c in rotation().cells if (c.adjoint, c.rtol) == (adjoint, rtol)]
    return cell


def test_cells_are_ordered_and_none_failed():
    found = [(c.adjoint, c.rtol, c.atol, c.failure) for c in rotation().cells]
    assert found == [(a, rtol, rtol, None) for rtol in RTOLS for a in ADJOINTS]


@each_adjoint()
def test_gradient_error_falls_with_the_tolerance(adjoint):
    errors = column("gradient_error", adjoint)
    # Observed 1.01 to 1.03.
    assert abs(slope(RTOLS, errors) - 1) < 0.15


def test_gradient_error_is_that_of_the_closed_form():
    # The loss is x cos a - y sin a - 0.3 (x sin a + y cos a) at a = 2 * frequency.
    x, y, a = 0.6, -0.8, 3.0
    truth = 2 * (-x * np.sin(a) - y * np.cos(a) - 0.3 * (x * np.cos(a) - y * np.sin(a)))
    with enable_x64(True):
        cell = cell_of("discrete", 1e-3)
        params, y0 = {"frequency": jnp.asarray(1.5)}, jnp.asarray([x, y])
        loss = end_of(rotate, rtol=1e-3, atol=1e-3)
        computed = float(jax.grad(loss)(params, y0)["frequency"])
    expected = abs(computed - truth) / abs(truth)
    # Observed equal to 7 digits, which is what the reference is known to.
    np.testing.assert_allclose(cell.gradient_error, expected, rtol=1e-5)
    (leaf,) = cell.leaf_errors.items()
    assert leaf == ("['frequency']", jaxode.LeafError(cell.gradient_error, cell.cosine))


def test_memory_against_steps():
    steps = np.array(column("num_accepted_steps", "direct"))
    assert steps[-1] > 5 * steps[0]
    backsolve, checkpoint, direct = (
        column("temporary_bytes", name)
        for name in ("backsolve", "checkpoint", "direct")
    )
    assert max(backsolve) == min(backsolve)
    assert backsolve[-1] < checkpoint[0] < checkpoint[1]
    # Diffrax's `direct` nests loops of 16, and recomputes all but the innermost.
    levels = np.ceil(np.log(steps) / np.log(16))
    assert np.array_equal(np.diff(direct) > 0, np.diff(levels) > 0) and direct[0] > 0


def test_counts_are_those_of_the_solve():
    with enable_x64(True):
        params, y0 = {"frequency": jnp.asarray(1.5)}, jnp.asarray([0.6, -0.8])
        stats: Any = jaxode.odeint(
            rotate, y0, jnp.asarray(TS), params, solver=BOSH3, rtol=1e-6, atol=1e-6
        ).stats
    cell = cell_of("discrete", 1e-6)
    counted = (cell.nfe_forward, cell.num_accepted_steps, cell.num_rejected_steps)
    expected = (stats.nfe, stats.num_accepted_steps, stats.num_rejected_steps)
    assert counted == tuple(int(n) for n in expected)
    assert cell.max_steps == int(stats.num_steps)


def test_consistency_is_what_the_adjoint_alone_is_off_by():
    # Two ways of differentiating the same steps.
    assert max(column("consistency", "checkpoint")) < 1e-12
    assert column("consistency", "direct") == [0.0] * len(RTOLS)
    # Observed 0.79, from 4e-4: the error of the backward solve.
    assert 0.6 < slope(RTOLS, column("consistency", "backsolve")) < 1.2


@pytest.mark.slow
def test_rotation_is_reconstructed_and_contraction_is_not():
    rotating = cell_of("backsolve", 1e-3).reconstruction_error
    fast = {"rate": jnp.asarray(8.0)}
    settings = dict(adjoints=("backsolve",), rtols=(1e-3,))
    found = compare(end_of(contract), fast, jnp.asarray([0.6, -0.8]), **settings)
    # Observed 0.016, and 9e1 where an error grows by e^16 on the way back.
    assert rotating < 0.05
    assert found.cells[0].reconstruction_error > 1


@pytest.mark.slow
def test_reference_is_in_double_precision_and_leaves_single_precision_alone():
    comparison = slowly_decaying()
    exact = (0.6 + 0.3 * 0.8) * np.exp(-3.0)
    # Observed 4e-8, beyond what single precision can hold.
    assert abs(comparison.reference.loss / exact - 1) < 1e-7
    assert comparison.reference.error < 1e-7
    assert jnp.asarray(1.0).dtype == jnp.float32
    assert comparison.cells[0].gradient_error > 100 * comparison.reference.error


@pytest.mark.slow
def test_solver_without_error_estimate_is_a_cell_that_says_so():
    solvers = (diffrax.Euler(), HEUN)
    euler, heun = decay(solvers=solvers).cells
    assert "Euler has no error estimate" in euler.failure
    assert euler.gradient_error is None and heun.failure is None
    assert (euler.solver, heun.solver) == ("Euler", "Heun")


@pytest.mark.slow
def test_too_few_steps_are_a_cell_that_says_so():
    (cell,) = decay(rtols=(1e-6,), max_steps=5).cells
    assert cell.failure == "1 of 1 solves needed more than max_steps=5 steps"
    assert cell.gradient_error is None and cell.seconds is None


@pytest.mark.slow
def test_nan_of_the_field_is_a_cell_that_says_so():
    broken = lambda t, y, args: -args["rate"] * jnp.where(t > 1, jnp.nan, y)
    comparison = decay(field=broken)
    assert comparison.cells[0].failure == "1 of 1 solves met a NaN or an infinity"
    assert "There is no reference gradient" in comparison.verdict


@pytest.mark.slow
def test_adjoint_that_keeps_its_counts_has_none_in_the_table():
    stock = diffrax.BacksolveAdjoint()
    (cell,) = decay(adjoints=(stock,)).cells
    assert cell.adjoint == "BacksolveAdjoint" and cell.failure is None
    assert cell.nfe_backward is None and cell.nfe_forward > 0


@pytest.mark.slow
def test_longest_of_several_solves_gets_its_steps():
    def loss(rate, y0):
        shrink = lambda t, y, args: -args * y
        ends = [
            jaxode.odeint(shrink, y0, jnp.array([0.0, t1]), rate, solver=HEUN).ys[-1]
            for t1 in (0.05, 2.0)
        ]
        return sum(ends), "anything"

    settings = dict(rtols=(1e-3,), adjoints=("discrete",))
    (cell,) = compare(loss, jnp.array(1.5), jnp.array(1.0), **settings).cells
    assert cell.failure is None
    # The mean of the two was not enough.
    assert cell.max_steps > cell.num_accepted_steps / 2


def test_record_is_json_and_csv(tmp_path):
    comparison = slowly_decaying()
    record = json.loads(json.dumps(comparison.to_dict()))
    assert record["cells"][0]["gradient_error"] == comparison.cells[0].gradient_error
    comparison.to_csv(tmp_path / "cells.csv")
    head, line = (tmp_path / "cells.csv").read_text().splitlines()
    assert head.startswith("adjoint,solver,rtol") and line.startswith("discrete,as")
    with pytest.raises(FileExistsError):
        comparison.to_csv(tmp_path / "cells.csv")


def test_plot_shows_every_adjoint(tmp_path):
    figure = rotation().plot(tmp_path / "cells.png")
    assert (tmp_path / "cells.png").stat().st_size > 10_000
    first = figure.axes[0]
    lines = {line.get_label(): line.get_ydata() for line in first.get_lines()}
    assert list(lines["direct"]) == column("gradient_error", "direct")
    assert {"backsolve", "checkpoint", "direct"} < set(lines)


def test_printed_table_ends_with_the_verdict():
    text = str(rotation())
    assert text.count("\ndirect ") == len(RTOLS)
    direct, backsolve = (cell_of(name, 1e-6) for name in ("direct", "backsolve"))
    share = 100 * backsolve.temporary_bytes / direct.temporary_bytes
    (verdict,) = re.findall("At rtol 1e-06 with the solver as given: (.*)", text)
    (about,) = re.findall("backsolve ([^;]*);", verdict)
    assert f"needs {share:.2g} % of its memory" in about


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (2.5, "is 2.5 times slower than"),
        (0.25, "is 4 times faster than"),
        (1.04, "takes as long as"),
        (0.97, "takes as long as"),
    ],
)
def test_verdict_on_seconds(ratio, words):
    assert _pace(ratio) == words


NO_FLOAT = {"rate": jnp.asarray(2)}


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((end_of(contract),), dict(adjoints=("adjoint",)), ValueError, "choose one of"),
        ((end_of(contract),), dict(adjoints=()), ValueError, "adjoints is empty"),
        ((end_of(contract),), dict(adjoints="direct"), TypeError, "('direct',)"),
        ((end_of(contract),), dict(rtols=()), ValueError, "rtols is empty"),
        ((end_of(contract),), dict(rtols=(0.0,)), ValueError, "must be positive"),
        (
            (end_of(contract),),
            dict(atols=(1.0, 2.0)),
            ValueError,
            "1 rtols and 2 atols",
        ),
        ((end_of(contract),), dict(solvers=()), ValueError, "a sequence of Diffrax"),
        ((end_of(contract), NO_FLOAT), {}, ValueError, "no floating array"),
        ((lambda p, y0: p["rate"],), {}, ValueError, "solves no ODE by jaxode.odeint"),
        ((lambda p, y0: y0,), {}, TypeError, "floating scalar"),
    ],
)
def test_bad_input_says_what_to_type(arguments, settings, error, message):
    loss, *rest = arguments
    params = rest[0] if rest else {"rate": jnp.asarray(1.5)}
    settings = dict(rtols=(1e-2,)) | settings
    with unchecked_types(), pytest.raises(error) as caught:
        compare(loss, params, jnp.asarray([0.6, -0.8]), **settings)
    assert message in str(caught.value)
