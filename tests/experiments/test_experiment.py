"""The command line of the experiment: settings, presets, bad input."""

import dataclasses
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args

import _compilation_cache
import _config
import _setup
import _start
import diffrax
import jax
import jax.numpy as jnp
import mnist
import numpy as np
import pytest
from _command_line import check, InputError, parse
from _compilation_cache import use_compilation_cache
from _config import Config, EvaluateConfig, PRESETS
from _evaluation import _merge

import jaxode
from jaxode._solve.adjoints import ADJOINTS
from jaxode.datasets import DATASETS


SCRIPT = Path(mnist.__file__)


@pytest.fixture(autouse=True)
def _flags_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command may do to its process would reach every test after this one."""
    monkeypatch.setattr(mnist, "set_xla_cpu_flags", lambda: None)
    monkeypatch.setattr(mnist, "use_one_thread_if_small", lambda *_: None)


# Names and presets


def test_names_on_the_command_line_are_those_of_the_library():
    # They are written twice so that --help needs no JAX.
    assert get_args(_config.AdjointName) == tuple(ADJOINTS)
    assert set(get_args(_config.DatasetName)) == set(DATASETS)
    assert get_args(_config.SolverName) == tuple(_setup.SOLVERS)


def test_solvers_without_error_estimate_are_listed_as_such():
    def decay(t, y, args):
        return -y

    for name, make in _setup.SOLVERS.items():
        _, y_error, _, _, _ = (solver := make()).step(
            diffrax.ODETerm(decay),
            0.0,
            0.1,
            y0 := jnp.ones(1),
            None,
            solver.init(diffrax.ODETerm(decay), 0.0, 0.1, y0, None),
            made_jump=False,
        )
        assert (name in _config.NOT_ADAPTIVE) == (y_error is None), name


def test_preset_post_is_the_recipe_of_the_post():
    config = mnist.read_settings(["--preset", "post"])
    recipe = (config.epochs, config.batch_size, config.lr, config.momentum)
    assert recipe == (10, 16, 1e-3, 0.9)
    assert (config.solver, config.rtol, config.atol) == ("dopri5", 0.1, 0.1)
    assert (config.shift, config.speed_decay, config.nesterov) == (0, 0.0, False)
    rate = _setup.learning_rate(config, steps_per_epoch=3750)
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


def test_help_explains_every_option_with_its_default():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())
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


def test_bad_option_is_exit_code_2_without_traceback():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--adjoint", "bakcsolve"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "backsolve" in done.stderr


def test_images_that_are_not_there_are_refused():
    images = np.zeros((10, 28, 28, 1), np.uint8)
    split = jaxode.datasets.Split(images, np.zeros(10, np.int32))
    dataset = jaxode.datasets.Dataset("digits", split, split)
    with pytest.raises(InputError, match="--train-size must be at most 10, the train"):
        _setup.split_data(Config(train_size=11), dataset)
    with pytest.raises(InputError, match="--holdout must leave some of the 10 train"):
        _setup.split_data(Config(holdout=10), dataset)


def test_held_out_images_are_scored_and_not_trained_on():
    labels = np.arange(10, dtype=np.int32)
    images = np.zeros((10, 28, 28, 1), np.uint8)
    train, test = (
        jaxode.datasets.Split(images, labels),
        jaxode.datasets.Split(images[:3], labels[:3]),
    )
    dataset = jaxode.datasets.Dataset("digits", train, test)
    config = Config(holdout=4, train_size=5)
    trained, scored, name = _setup.split_data(config, dataset)
    assert (list(trained.labels), list(scored.labels)) == (
        [0, 1, 2, 3, 4],
        [6, 7, 8, 9],
    )
    assert name == "held-out"


# Schedule and devices


def test_learning_rate_rises_and_comes_down_whatever_the_epochs():
    config = Config(lr=0.1, warmup_epochs=1, decay_epochs=4, epochs=1)
    rate = _setup.learning_rate(config, steps_per_epoch=10)
    rates = np.array([float(rate(jnp.asarray(step))) for step in range(60)])
    assert rates[0] > 0 and rates.argmax() == 10
    np.testing.assert_allclose(rates.max(), 0.1, rtol=1e-6)
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:40]) < 0).all()
    # Halfway along the cosine: the mean of both ends.
    np.testing.assert_allclose(rates[25], 0.1 * (1 + 0.01) / 2, rtol=1e-5)
    np.testing.assert_allclose(rates[40:], 0.001, rtol=1e-5)
    longer = _setup.learning_rate(dataclasses.replace(config, epochs=9), 10)
    assert [float(longer(jnp.asarray(step))) for step in range(60)] == list(rates)


def test_evaluation_keeps_what_is_not_asked_for():
    stored = Config(solver="rk4", fixed_steps=True, dt0=0.5, channels=2)
    assert _merge(stored, EvaluateConfig(Path("run"))) == stored
    adaptive = _merge(stored, EvaluateConfig(Path("run"), solver="tsit5", rtol=1e-3))
    assert (adaptive.solver, adaptive.rtol, adaptive.fixed_steps) == (
        "tsit5",
        1e-3,
        False,
    )
    assert (adaptive.atol, adaptive.channels) == (0.1, 2)
    fixed = parse(EvaluateConfig, ["run", "--fixed-steps", "--dt0", "0.1"], "evaluate")
    assert _merge(Config(), fixed).fixed_steps
    plain = dataclasses.replace(stored, plain=True)
    assert _merge(plain, EvaluateConfig(Path("run"))).plain


def test_one_device_is_not_sharded():
    assert jax.device_count() == 1
    assert _setup.batch_sharding(Config(), 100) is None


def test_flags_for_xla_are_set_unless_the_user_has_set_some(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    _start.set_xla_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=somewhere"
    monkeypatch.delenv("XLA_FLAGS")
    _start.set_xla_cpu_flags()
    whole_loops = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold"
    assert f"{whole_loops}=0" in os.environ["XLA_FLAGS"].split()


def test_a_small_state_gets_one_thread_unless_the_user_has_set_some(monkeypatch):
    def threads(batch, channels):
        _start.use_one_thread_if_small(batch, channels)
        return os.environ.get("PJRT_NPROC")

    monkeypatch.setenv("PJRT_NPROC", "")  # so that what is set below is taken back
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("NPROC", "2")
    assert threads(16, 6) is None
    monkeypatch.delenv("NPROC")
    assert threads(64, 6) is threads(29, 5) is None
    assert threads(24, 6) == "1"
    monkeypatch.setenv("PJRT_NPROC", "3")
    assert threads(16, 6) == "3"


CUT_CONVOLUTION = """
import jax, jax.numpy as jnp
from jaxode.nn.kernels.conv import convolve
program = jax.jit(lambda x, w: convolve(x, w, batch=16))
compiled = program.lower(jnp.zeros((6, 28, 448)), jnp.zeros((6, 6, 3, 3))).compile()
print("outer_dimension_partitions" in compiled.as_text())
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="one core",
)
@pytest.mark.parametrize(("threads", "is_cut"), [(None, "True"), ("1", "False")])
def test_with_one_thread_xla_does_not_cut_convolutions(threads, is_cut):
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    environment.pop("PJRT_NPROC", None)
    if threads is not None:
        environment["PJRT_NPROC"] = threads
    done = subprocess.run(
        [sys.executable, "-c", CUT_CONVOLUTION],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == is_cut


def test_compiled_code_is_kept_with_the_user_unless_jax_was_told(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    folder, least = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {option: jax.config.values[option] for option in (folder, least)}
    kept_in, small_programs_too = str(tmp_path / "xla"), 0
    try:
        jax.config.update(least, 2.5)
        for told, expected in [
            ("elsewhere", ("elsewhere", 2.5)),
            (None, (kept_in, small_programs_too)),
        ]:
            jax.config.update(folder, told)
            use_compilation_cache()
            assert (jax.config.values[folder], jax.config.values[least]) == expected
    finally:
        for option, value in before.items():
            jax.config.update(option, value)


def test_damaged_compiled_code_is_dropped_and_other_warnings_are_shown(
    tmp_path, monkeypatch
):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *args: shown.append(args[0]))
    names = ["jit_step-12-cache", "jit_step_two-34-cache"]
    for name in names:
        (tmp_path / name).touch()
    _compilation_cache._drop_damaged_entries(tmp_path)
    about = "Error reading persistent compilation cache entry for 'jit_step': bad data"
    for message in (about, "something else"):
        warnings.showwarning(message, UserWarning, "compiler.py", 1)
    assert [path.name for path in tmp_path.iterdir()] == names[1:]
    assert shown == ["something else"]
