"""The command line of `mnist.py`: settings, presets, bad input."""

import dataclasses
import re
from typing import get_args

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

import mnist
from classifier import config as names
from classifier.checks import check
from classifier.config import Config, PRESETS
from classifier.setup import learning_rate, SOLVERS
from console.command_line import InputError
from jaxode._solve.adjoints import ADJOINTS
from jaxode.datasets import DATASETS


# Names and presets


def test_names_on_the_command_line_are_those_of_the_library():
    # They are written twice so that --help needs no JAX.
    assert get_args(names.AdjointName) == tuple(ADJOINTS)
    assert set(get_args(names.DatasetName)) == set(DATASETS)
    assert get_args(names.SolverName) == tuple(SOLVERS)


def test_solvers_without_error_estimate_are_listed_as_such():
    def decay(t, y, args):
        return -y

    for name, make in SOLVERS.items():
        _, y_error, _, _, _ = (solver := make()).step(
            diffrax.ODETerm(decay),
            0.0,
            0.1,
            y0 := jnp.ones(1),
            None,
            solver.init(diffrax.ODETerm(decay), 0.0, 0.1, y0, None),
            made_jump=False,
        )
        assert (name in names.NOT_ADAPTIVE) == (y_error is None), name


def test_preset_post_is_the_recipe_of_the_post():
    config = mnist.read_settings(["--preset", "post"])
    recipe = (config.epochs, config.batch_size, config.lr, config.momentum)
    assert recipe == (10, 16, 1e-3, 0.9)
    assert (config.solver, config.rtol, config.atol) == ("dopri5", 0.1, 0.1)
    assert (config.shift, config.speed_decay, config.nesterov) == (0, 0.0, False)
    rate = learning_rate(config, steps_per_epoch=3750)
    assert {float(rate(jnp.asarray(step))) for step in (0, 1, 37_499)} == {
        float(np.float32(1e-3))
    }


def test_given_options_replace_those_of_the_preset():
    config = mnist.read_settings(["--lr", "0.5", "--preset=post", "--epochs", "2"])
    assert (config.lr, config.epochs, config.batch_size) == (0.5, 2, 16)


@pytest.mark.parametrize("name", list(PRESETS))
def test_preset_is_valid_and_knows_its_name(name):
    check(PRESETS[name])
    assert PRESETS[name].preset == name


def test_help_explains_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        mnist.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    for field in dataclasses.fields(Config):
        option = f"--{field.name.replace('_', '-')}"
        about = re.search(rf"{option}[ ,](.*?)\(default: (\S+)\)", shown)
        assert about is not None, option
        assert about[2] == str(field.default), option
        assert len(about[1].split()) > 4, option


# Bad input

BAD = [
    (["--adjoint", "foo"], "'--adjoint'. Expected one of (backsolve, checkpoint, dir"),
    (["--solver", "foo"], "'--solver'. Expected one of (bosh3, dopri5, dopri8, euler,"),
    (["--dataset", "foo"], "'--dataset'. Expected one of (auto, digits, fashion_mnist"),
    (["--preset", "foo"], "'--preset'. Expected one of (default, fast, post)"),
    (["--bogus", "3"], "Unrecognized options: --bogus"),
    (["--epochs", "two"], "--epochs: invalid literal for int() with base 10: 'two'"),
    (["--epochs"], "Missing value for argument '--epochs'"),
    (["--epochs", "0"], "--epochs must be above 0; got 0."),
    (["--batch-size", "-3"], "--batch-size must be above 0; got -3."),
    (["--eval-batch-size", "0"], "--eval-batch-size must be above 0; got 0."),
    (["--train-size", "-1"], "--train-size must be above 0; got -1."),
    (["--channels", "0"], "--channels must be above 0; got 0."),
    (
        ["--channels", "40"],
        "--channels must be at most 32 or a multiple of 32; got",
    ),
    (["--lr", "0"], "--lr must be above 0; got 0.0."),
    (["--lr", "nan"], "--lr must be above 0; got nan."),
    (["--lr", "inf"], "--lr must be finite; got inf."),
    (["--rtol", "-0.1"], "--rtol must be above 0; got -0.1."),
    (["--atol", "0"], "--atol must be above 0; got 0.0."),
    (["--dt0", "-1"], "--dt0 must be above 0; got -1.0."),
    (["--max-steps", "0"], "--max-steps must be above 0; got 0."),
    (["--momentum", "1"], "--momentum must be below 1; got 1.0."),
    (["--shift", "-1"], "--shift must not be negative; got -1."),
    (["--holdout", "-1"], "--holdout must not be negative; got -1."),
    (["--seed", "-1"], "--seed must be from 0 to 2**32 - 1; got -1."),
    (
        ["--warmup-epochs", "9"],
        "--decay-epochs must be 0 or above --warmup-epochs (9",
    ),
    (["--solver", "rk4"], "--solver rk4 has no error estimate"),
    (["--fixed-steps"], "--fixed-steps needs the length of the steps: add --dt0 0.1."),
    (
        ["--resume", "nowhere"],
        "nowhere is not the folder of a run: nowhere/config",
    ),
    (["evaluate"], "Missing from mnist.py evaluate: PATH"),
    (["evaluate", "nowhere"], "nowhere is not the folder of a run"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=[" ".join(b[0]) for b in BAD]
)
def test_bad_option_is_refused_in_one_line(
    arguments, message, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        mnist.main(arguments)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []
