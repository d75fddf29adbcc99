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
from classifier.config import Config
from classifier.networks import MODELS, SOLVERS
from classifier.presets import MODEL_SETTINGS, PRESETS
from classifier.setup import learning_rate
from console.command_line import InputError
from jaxode._solve.adjoints import ADJOINTS
from jaxode.datasets import DATASETS


# Names and presets


def test_names_on_the_command_line_are_those_of_the_library():
    # They are written twice so that --help needs no JAX.
    assert get_args(names.AdjointName) == tuple(ADJOINTS)
    assert set(get_args(names.DatasetName)) == set(DATASETS)
    assert get_args(names.SolverName) == tuple(SOLVERS)
    assert get_args(names.ModelName) == tuple(MODELS) == tuple(MODEL_SETTINGS)


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


def test_preset_paper_is_the_released_recipe():
    config = mnist.read_settings(["--preset", "paper"])
    assert (config.model, config.channels, config.crop) == ("paper", 64, 4)
    recipe = (config.epochs, config.batch_size, config.lr, config.momentum)
    assert recipe == (160, 128, 0.1, 0.9)
    assert (config.solver, config.rtol, config.atol) == ("dopri5", 1e-3, 1e-3)
    assert (config.shift, config.speed_decay, config.nesterov) == (0, 0.0, False)
    # torchdiffeq's example drops the rate before steps 60, 100 and 140 * 468.
    rate = learning_rate(config, steps_per_epoch=468)
    steps = [0, 60 * 468 - 1, 60 * 468, 100 * 468, 140 * 468 - 1, 140 * 468]
    rates = [float(rate(jnp.asarray(step))) for step in steps]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 1e-3, 1e-3, 1e-4], rtol=1e-6)


def test_drops_come_at_parts_of_the_epochs_that_were_asked_for_first():
    config = mnist.read_settings(["--preset", "paper", "--epochs", "16"])
    assert config.decay_epochs == 16.0
    # A run that is resumed for more has this number among its settings.
    rate = learning_rate(dataclasses.replace(config, epochs=32), steps_per_epoch=10)
    rates = [float(rate(jnp.asarray(step))) for step in (59, 60, 100, 140, 319)]
    np.testing.assert_allclose(rates, [0.1, 0.01, 1e-3, 1e-4, 1e-4], rtol=1e-6)


def test_models_come_with_their_own_width_and_tolerance():
    config = mnist.read_settings(["--model", "paper-residual", "--lr", "0.5"])
    assert (config.channels, config.rtol, config.lr) == (64, 1e-3, 0.5)
    config = mnist.read_settings(["--model", "rknet", "--preset", "paper"])
    assert (config.channels, config.solver, config.crop) == (6, "rk4", 4)


def test_given_options_replace_those_of_the_preset():
    config = mnist.read_settings(["--lr", "0.5", "--preset=post", "--epochs", "2"])
    assert (config.lr, config.epochs, config.batch_size) == (0.5, 2, 16)


@pytest.mark.parametrize("model", get_args(names.ModelName))
@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_model_goes_with_every_preset(preset, model):
    check(mnist.read_settings(["--preset", preset, "--model", model]))


@pytest.mark.parametrize("name", list(PRESETS))
def test_preset_is_valid_and_knows_its_name(name):
    check(PRESETS[name])
    assert PRESETS[name].preset == name


def test_backsolve_brings_a_slower_field_unless_told_otherwise():
    def decay(*arguments):
        return mnist.read_settings(arguments).speed_decay

    backwards = ["--adjoint", "backsolve"]
    assert decay(*backwards) == 0.1 > decay()
    assert decay(*backwards, "--preset", "fast") == 0.1
    assert decay(*backwards, "--preset", "post") == 0
    assert decay(*backwards, "--speed-decay", "0.3") == 0.3


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
        assert about[2] == str(getattr(PRESETS["default"], field.name)), option
        assert len(about[1].split()) > 4, option


# Bad input

BAD = [
    (["--adjoint", "foo"], "'--adjoint'. Expected one of (backsolve, checkpoint, dir"),
    (["--solver", "foo"], "'--solver'. Expected one of (bosh3, dopri5, dopri8, euler,"),
    (["--dataset", "foo"], "'--dataset'. Expected one of (auto, digits, fashion_mnist"),
    (["--preset", "foo"], "'--preset'. Expected one of (default, fast, paper, pap"),
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
    (["--batch-size", "9223372036854775808"], "--batch-size must be below 2**31 - 1;"),
    (["--eval-batch-size", "1" + 20 * "0"], "--eval-batch-size must be below 2**31"),
    (["--max-steps", "3000000000"], "--max-steps must be below 2**31 - 1; got 30000"),
    (["--max-steps", "2147483648"], "--max-steps must be below 2**31 - 1; got 21474"),
    (["--warmup-epochs", "1e300"], "--warmup-epochs must be at most 3e38, the larges"),
    (["--decay-epochs", "1e300"], "--decay-epochs must be at most 3e38, the largest"),
    (["--decay-epochs", "1e30"], "--decay-epochs must be at most 1000000; got 1e+30."),
    (["--momentum", "1"], "--momentum must be below 1; got 1.0."),
    (["--shift", "-1"], "--shift must not be negative; got -1."),
    (["--holdout", "-1"], "--holdout must not be negative; got -1."),
    (["--seed", "-1"], "--seed must be from 0 to 2**32 - 1; got -1."),
    (
        ["--warmup-epochs", "17"],
        "--decay-epochs must be 0 or above --warmup-epochs (17",
    ),
    (["--solver", "rk4"], "--solver rk4 has no error estimate"),
    (
        ["--preset", "post", "--fixed-steps"],
        "--fixed-steps needs the length of the steps: add --dt0 0.1.",
    ),
    (["--crop", "3"], "--shift 1 and --crop 3 both move the images; set one of them"),
    (["--blocks", "0"], "--blocks must be above 0; got 0."),
    (
        ["--blocks", "3"],
        "--blocks 3 means nothing to --model odenet: it is for --model residual and",
    ),
    (
        ["--model", "none", "--adjoint", "backsolve"],
        "--adjoint backsolve means nothing to --model none: it is for --model odenet",
    ),
    (
        ["--model", "rknet", "--fixed-steps", "--dt0", "0.1"],
        "--dt0 0.1 means nothing to --model rknet: it is for --model odenet and paper.",
    ),
    (["--zero-init"], "--zero-init means nothing to --model odenet: it is for --model"),
    (["--steer", "1"], "--steer must be below --t1 (1.0); got 1.0."),
    (["--t1", "0"], "--t1 must be above 0; got 0.0."),
    (["--kinetic", "-1"], "--kinetic must not be negative; got -1.0."),
    (
        ["--augment", "30"],
        "--augment and --channels 6 together must be at most 32 or a multiple of 32;",
    ),
    (
        ["--schedule", "drops", "--decay-epochs", "0"],
        "--schedule drops needs the epochs that its parts are parts of: add --decay-ep",
    ),
    (
        ["--resume", "nowhere"],
        "nowhere is not the folder of a run: nowhere/config",
    ),
    (["evaluate"], "Missing from mnist.py evaluate: PATH"),
    (["evaluate", "nowhere"], "nowhere is not the folder of a run"),
    (["evaluate", "nowhere.pth"], "No such file or directory: 'nowhere.pth'"),
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
