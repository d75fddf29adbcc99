"""The comparison of the adjoints: its settings, its rows, one part from end to end."""

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from runs import content

import adjoints
from adjoint_study import gradients
from adjoint_study.config import (
    ADJOINTS,
    AdjointsConfig,
    chosen_adjoints,
    PARTS,
    QUICK,
    sizes_for,
)
from adjoint_study.figures import FIGURES
from adjoint_study.gradients import memory_records
from adjoint_study.networks import scored_under
from adjoint_study.training import Trained
from classifier.config import Config
from console.command_line import InputError
from console.progress import Reporter


# Rows


def test_gradient_that_cannot_be_had_is_a_row(monkeypatch):
    def measure(adjoint, steps):
        raise ValueError("Not with Euler.\nAnd more.")

    monkeypatch.setattr(gradients, "measure", measure)
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
    assert chosen_adjoints(AdjointsConfig()) == ADJOINTS
    twice = AdjointsConfig(adjoints=("direct", "direct"))
    assert chosen_adjoints(twice) == ("direct",)


def test_asked_epochs_end_the_cosine_too():
    recipe = sizes_for(AdjointsConfig(epochs=5, train_size=9, seed=4)).recipe
    assert (recipe.epochs, recipe.decay_epochs) == (5, 5)
    assert (recipe.train_size, recipe.seed) == (9, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "foo"], "'--parts'"),
        (["--seed", "-1"], "--seed must be from 0 to"),
        (["--adjoints", "foo"], "discrete, backsolve, checkpoint, direct; got foo"),
        (["--epochs", "0"], "--epochs must be above 0; got 0"),
        (["--redraw", "nowhere"], "has none of the tables memory.json"),
    ],
)
def test_bad_settings_are_one_line(arguments, message):
    with pytest.raises(InputError) as caught:
        adjoints.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# A part from end to end


def run(*arguments: object) -> str:
    """Runs the command in this process; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        adjoints.main([*map(str, arguments)])
    return printed.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The part that is measured fastest, with one adjoint of its own."""
    folder = tmp_path_factory.mktemp("adjoints") / "new"
    options = "--quick --dataset digits --parts memory --adjoints backsolve".split()
    last = run(*options, "--out", folder).splitlines()[-1]
    assert last == f"digits: tables and figures in {folder}/"
    return folder


def test_part_leaves_its_table_twice_and_its_figure(folder):
    files = content(folder)
    assert sorted(files) == ["memory.csv", "memory.json", "memory.png"]
    assert files["memory.png"].startswith(b"\x89PNG")
    table = json.loads(files["memory.json"])
    assert (table["dataset"], table["quick"], table["seed"]) == ("digits", True, 0)
    assert table["sizes"]["recipe"]["train_size"] == 300
    assert {"versions", "device", "git_commit", "seconds"} <= set(table)
    rows = list(csv.DictReader(files["memory.csv"].decode().splitlines()))
    # One adjoint and storing every step, in one step and in ten.
    assert [int(row["steps"]) for row in rows] == [1, 10, 1, 10]
    bytes_ = [int(row["temporary_bytes"]) for row in rows]
    assert bytes_ == [record["temporary_bytes"] for record in table["records"]]
    # The adjoint method stores no step.
    assert bytes_[1] < 1.2 * bytes_[0] and bytes_[3] > 1.2 * bytes_[2]


def test_figures_are_drawn_again_from_the_tables(folder):
    (folder / "memory.png").unlink()
    run("--redraw", folder)
    assert content(folder)["memory.png"].startswith(b"\x89PNG")


def test_folder_that_holds_something_is_left_alone(folder):
    before = content(folder)
    with pytest.raises(InputError, match=f"{folder} is not empty") as caught:
        run("--quick", "--parts", "memory", "--out", folder)
    assert "--resume" not in str(caught.value) and "\n" not in str(caught.value)
    assert content(folder) == before


@pytest.mark.slow
def test_stretches_are_evenly_over_all_of_training(tmp_path):
    options = "--quick --dataset digits --parts training".split()
    run(*options, "--out", tmp_path / "new")
    table = json.loads(content(tmp_path / "new")["training.json"])
    ends = [record["epochs"] for record in table["records"]]
    # 300 images in batches of 32 are 10 steps; two epochs of them, ten stretches.
    np.testing.assert_allclose(ends, np.arange(1, 11) / 5, rtol=1e-12)
    for record in table["records"]:
        ratio = record["nfe_backward"] / record["nfe_forward"]
        assert record["backward_over_forward"] == ratio > 0


def test_every_part_has_a_figure():
    assert tuple(FIGURES) == PARTS
