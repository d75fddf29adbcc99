"""The comparison of the adjoints: its fields, its rows, one part from end to end."""

import csv
import json
from pathlib import Path

import _adjoints_gradients
import adjoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _adjoints_config import AdjointsConfig, check_adjoints, PARTS, QUICK, sizes_for
from _adjoints_fields import exact_gradient, PROBLEMS, weighted_sum
from _adjoints_gradients import memory_records
from _adjoints_horizon import Gradients, horizon_cell, relative_l2
from _adjoints_networks import scored_under
from _adjoints_training import Trained
from _command_line import InputError
from _config import Config
from _report import Reporter
from experiment_runner import content, Runner
from scipy.integrate import solve_ivp


# Analytic fields


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_closed_form_is_the_solution_of_its_field(name, x64):
    field, y0 = PROBLEMS[name].params(np.float64)
    # The first is within the transient of the stiff field.
    ends = 0.013, 1.7
    solved = solve_ivp(
        lambda t, y: np.asarray(field(t, jnp.asarray(y), None)),
        (0.0, ends[-1]),
        np.asarray(y0),
        method="LSODA",
        t_eval=ends,
        rtol=1e-10,
        atol=1e-12,
    )
    for end, expected in zip(ends, solved.y.T, strict=True):
        actual = field.exact(y0, end)
        # Observed at most 1.5e-9, of the expanding field.
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


def test_exact_gradient_of_the_decay_is_that_of_its_exponential():
    rate, y0 = np.array([0.1, 0.2, 0.3]), np.array([1.0, -0.7, 0.4])
    weights, decayed = 1 + np.sin(np.arange(3)), np.exp(-5 * rate)
    field, by_y0 = exact_gradient(PROBLEMS["decay"], 5.0)
    # Rounding of float64: equal in all but the last digit.
    np.testing.assert_allclose(by_y0, weights * decayed, rtol=1e-14)
    np.testing.assert_allclose(field.rate, -5 * weights * y0 * decayed, rtol=1e-14)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_exact_gradient_at_the_longest_horizon_fits_into_float32(name):
    gradient = exact_gradient(PROBLEMS[name], 50.0)
    sizes = [np.max(np.abs(leaf)) for leaf in jax.tree.leaves(gradient)]
    limits = np.finfo(np.float32)
    assert max(sizes) < limits.max and max(sizes) > limits.tiny


def test_relative_l2_is_over_all_arrays_together():
    # |(0, 3) - (4, 0)| over |(4, 0)|, where no array alone has that ratio.
    assert relative_l2((0.0, 3.0), (4.0, 0.0)) == 5 / 4
    # The square of 1e200 is beyond float64.
    assert relative_l2((0.0, 3e200), (4e200, 0.0)) == 5 / 4
    assert np.isnan(relative_l2((0.0, np.nan), (4.0, 0.0)))


# Rows


def test_horizon_row_of_a_lost_gradient_says_which_solve_failed():
    problem = PROBLEMS["stiff"]
    make = lambda dtype: (problem.params(dtype), None)
    gradients = Gradients(make, lambda y1, _: weighted_sum(y1), max_steps=200)
    truth = exact_gradient(problem, 1.0)
    setting = "backsolve", "float32", 1e-3
    backward = horizon_cell(gradients, *setting, 1.0, truth)
    assert backward["failure"] == "the backward solve failed"
    assert backward["gradient_error"] is backward["reconstruction_error"] is None
    assert backward["nfe_forward"] > 0 and backward["nfe_backward"] > 0
    forward = horizon_cell(gradients, *setting, 50.0, truth)
    assert forward["failure"] == "the forward solve failed"


def test_horizon_row_has_the_error_of_a_gradient_that_is_right():
    problem = PROBLEMS["rotation"]
    make = lambda dtype: (problem.params(dtype), None)
    gradients = Gradients(make, lambda y1, _: weighted_sum(y1), max_steps=200)
    row = horizon_cell(
        gradients, "backsolve", "float64", 1e-6, 5.0, exact_gradient(problem, 5.0)
    )
    assert row["failure"] is None
    # Observed 6.3e-6 and 4.9e-6, a few tolerances.
    assert 1e-8 < row["gradient_error"] < 1e-4
    assert 1e-8 < row["reconstruction_error"] < 1e-4


def test_gradient_that_cannot_be_had_is_a_row(monkeypatch):
    def measure(adjoint, steps):
        raise ValueError("Not with Euler.\nAnd more.")

    monkeypatch.setattr(_adjoints_gradients, "measure", measure)
    rows = memory_records(("backsolve",), QUICK, Reporter(quiet=True))
    assert [row["steps"] for row in rows] == 2 * list(QUICK.memory_steps)
    assert {row["failure"] for row in rows} == {"ValueError: Not with Euler."}
    assert {row["temporary_bytes"] for row in rows} == {None}


def test_network_in_fixed_steps_is_first_scored_in_its_own():
    config = Config(solver="rk4", fixed_steps=True, dt0=0.3)
    own, *others = scored_under(QUICK, Trained("run", config, None, [], {}))
    assert own == {"solver": "rk4", "tolerance": None, "steps": 4, "own": True}
    assert {solve["solver"] for solve in others} == {
        "dopri5", "euler", "midpoint", "rk4", "bosh3", "tsit5", "dopri8"
    }  # fmt: skip
    # Each has a tolerance or a number of steps, never both.
    assert all((s["tolerance"] is None) != (s["steps"] is None) for s in others)


# Settings


def test_adjoints_are_all_of_the_library_unless_named():
    known = ("backsolve", "checkpoint", "another")
    assert check_adjoints((), known) == known
    assert check_adjoints(("another", "another"), known) == ("another",)
    with pytest.raises(InputError, match="backsolve, checkpoint, another; got foo"):
        check_adjoints(("foo",), known)


def test_asked_epochs_end_the_cosine_too():
    recipe = sizes_for(AdjointsConfig(epochs=5, train_size=9, seed=4)).recipe
    assert (recipe.epochs, recipe.decay_epochs) == (5, 5)
    assert (recipe.train_size, recipe.seed) == (9, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "foo"], "'--parts'"),
        (["--seed", "-1"], "--seed must be from 0 to"),
        (["--epochs", "0"], "--epochs must be above 0; got 0"),
        (["--redraw", "nowhere"], "has none of the tables memory.json"),
    ],
)
def test_bad_settings_are_one_line(arguments, message):
    with pytest.raises(InputError) as caught:
        adjoints.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# A part from end to end


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("adjoints"), adjoints.__file__)


@pytest.fixture(scope="module")
def folder(run) -> Path:
    quick = "--quick --dataset digits --parts training --out new".split()
    done = run(*quick)
    assert done.stdout.splitlines()[-1].startswith("digits: tables and figures in new")
    return run.folder / "new"


def test_part_leaves_its_table_twice_and_its_figure(folder):
    files = content(folder)
    assert sorted(files) == ["training.csv", "training.json", "training.png"]
    assert files["training.png"].startswith(b"\x89PNG")
    table = json.loads(files["training.json"])
    assert (table["dataset"], table["quick"], table["seed"]) == ("digits", True, 0)
    assert table["sizes"]["recipe"]["train_size"] == 300
    assert {"versions", "device", "git_commit", "seconds"} <= set(table)
    rows = list(csv.DictReader(files["training.csv"].decode().splitlines()))
    assert [float(row["epochs"]) for row in rows] == pytest.approx(
        [record["epochs"] for record in table["records"]]
    )


def test_looks_are_evenly_over_all_of_training(folder):
    table = json.loads(content(folder)["training.json"])
    ends = [record["epochs"] for record in table["records"]]
    # 300 images in batches of 32 are 10 steps; two epochs of them, ten looks.
    np.testing.assert_allclose(ends, np.arange(1, 11) / 5, rtol=1e-12)
    for record in table["records"]:
        ratio = record["nfe_backward"] / record["nfe_forward"]
        assert record["backward_over_forward"] == ratio > 0


def test_figures_are_drawn_again_from_the_tables(run, folder):
    (folder / "training.png").unlink()
    run("--redraw", folder)
    assert content(folder)["training.png"].startswith(b"\x89PNG")


def test_folder_that_holds_something_is_left_alone(run, folder):
    before = content(folder)
    done = run("--quick", "--parts", "memory", "--out", "new", code=2)
    assert "new is not empty" in done.stderr and "--resume" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert content(folder) == before


def test_every_part_has_a_figure():
    from _adjoints_figures import FIGURES

    assert tuple(FIGURES) == PARTS
