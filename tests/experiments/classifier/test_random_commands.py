"""Random command lines: each runs, or is refused in a line; nothing else is raised."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import example, given, HealthCheck, settings, strategies as st
from runs import TINY, train

import jaxode
import mnist
from classifier import evaluation
from classifier.config import Config, EvaluateConfig
from classifier.loop import Trainer
from classifier.records import Part
from classifier.setup import build_optimiser
from console.command_line import InputError


pytestmark = pytest.mark.slow

INTEGERS = [0, 1, 2, 3, 31, 32, 63, 64, 65, 1436, 1437, 1438, 3200, 5000]
INTEGERS += [-1, 2**31 - 2, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30]
FLOATS = ["0", "0.1", "0.5", "1", "1.5", "9", "1e-3", "1e-6", "-0.1", "-0.0", "nan"]
FLOATS += ["inf", "-inf", "1e-38", "1e-45", "1e-300", "1e30", "1e39", "1e300", "1e400"]
ODD = ["", " ", "two", "None", "0x10", "1_000", "--", "\u0661", "\ud800", "a\0b"]
ODD += ["9" * 5000]
# Each new width compiles its initialisation.
WIDTHS = ["2", "6", "40", "0", "-1", "3201", str(2**40)]


class Enough(Exception):
    """The command line is fine, and training would begin."""


def values(name: str, kind: Any) -> list[str]:
    """What an option may be given, right or wrong."""
    if name == "channels":
        return WIDTHS
    if get_origin(kind) is not None and type(None) in get_args(kind):
        return ["None", *values(name, get_args(kind)[0])]
    if kind is int:
        return [*map(str, INTEGERS), *FLOATS[:4]]
    if kind is float:
        return [*FLOATS, *map(str, INTEGERS)]
    if kind is Path:
        return ["here", "a/b/c", "/dev/null/x", "/proc/x", ".", "x" * 300]
    return [str(choice) for choice in get_args(kind)] + ["foo"]


def joined(found: list[list[str]]) -> list[str]:
    return [part for option in found for part in option]


@cache
def options(kind: type) -> st.SearchStrategy[list[str]]:
    """Any of the options of a command, with values that fit or do not."""
    hints = get_type_hints(kind, include_extras=False)
    skipped = {"run", "resume", "quiet"}
    names = [f.name for f in dataclasses.fields(kind) if f.name not in skipped]
    flags = {name for name in names if hints[name] is bool}
    one = []
    for name in names:
        option = "--" + name.replace("_", "-")
        if name in flags:
            one.append(st.sampled_from([[option], ["--no-" + option[2:]]]))
            continue
        usual = st.sampled_from(values(name, hints[name]))
        value = usual | usual | usual | st.sampled_from(ODD)
        one.append(value.map(lambda value, option=option: [option, value]))
    return st.lists(st.one_of(one), max_size=6).map(joined)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(*TINY, "--epochs", 1, "--out", folder)
    return folder


@pytest.fixture
def up_to_training(monkeypatch, tmp_path) -> None:
    """Everything but compiling and training; any data set is the digits."""
    digits = jaxode.datasets.load("digits")
    records = jaxode.datasets.load_records("digits")

    def load(name: str, **_: Any) -> jaxode.datasets.Dataset:
        assert name in jaxode.datasets.DATASETS
        return digits

    def compile_(trainer: Trainer, state: Any) -> None:
        # The learning rate is computed in Python, with what was given.
        build_optimiser(trainer.config, trainer.data.steps_per_epoch)
        next(trainer._stretches(Part(1)))
        raise Enough

    def score(config: Config, trained: Any, *rest: Any) -> None:
        trained.load(config)
        raise Enough

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxode.datasets, "load", load)
    monkeypatch.setattr(jaxode.datasets, "load_records", lambda *_, **__: records)
    monkeypatch.setattr(Trainer, "compile", compile_)
    monkeypatch.setattr(evaluation, "_score", score)


RANDOM = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def outcome(arguments: list[str]) -> str:
    try:
        mnist.main(arguments)
    except Enough:
        return "runs"
    except InputError as error:
        return "refused" if str(error).strip() else "without a word"
    return "over"


SEEN: dict[str, int] = {}


@RANDOM
@given(given_options=options(Config))
# 250 draws may miss these, of which most are errors of another kind if not checked.
@example(given_options=["--max-steps", str(2**31)])
@example(given_options=["--batch-size", str(2**63)])
@example(given_options=["--seed", str(2**63)])
@example(given_options=["--rtol", "inf"])
@example(given_options=["--decay-epochs", "1e39"])
@example(given_options=["--channels", "40"])
@example(given_options=["--stream"])
def test_training_begins_or_is_refused_in_a_line(up_to_training, given_options):
    kind = outcome(["--dataset", "digits", "--quiet", *given_options])
    assert kind in ("runs", "refused")
    SEEN[kind] = SEEN.get(kind, 0) + 1


@RANDOM
@given(given_options=options(EvaluateConfig))
def test_evaluation_begins_or_is_refused_in_a_line(
    up_to_training, folder, given_options
):
    kind = outcome(["evaluate", str(folder), "--quiet", *given_options])
    assert kind in ("runs", "refused")


@settings(RANDOM, max_examples=60)
@given(given_options=options(Config))
def test_resuming_begins_or_is_refused_in_a_line(up_to_training, folder, given_options):
    start = ["--resume", str(folder), "--epochs", "2", "--quiet"]
    assert outcome([*start, *given_options]) in ("runs", "refused")


def test_many_of_the_random_command_lines_were_good(up_to_training):
    """The first test tells nothing if all of them are refused by the parser."""
    assert SEEN["runs"] > 20 and SEEN["refused"] > 100


REAL = [
    "--max-steps 2147483646",
    "--eval-batch-size 2000000000",
    "--decay-epochs 1e6 --batch-size 1 --train-size 9",
    "--lr 1e38",
    "--fixed-steps --dt0 1e38",
    "--clip-norm 1e-37 --momentum 0.999999 --speed-decay 1e38",
    "--shift 27 --holdout 1",
]


@pytest.mark.parametrize("given_options", REAL)
def test_extreme_settings_train_or_fail_in_a_line(tmp_path, given_options):
    options = [*TINY, "--epochs", "1", "--out", str(tmp_path / "run")]
    message = "failed"
    try:
        mnist.main([*options, *given_options.split()])
    except InputError as error:
        message = str(error)
    assert "failed" in message or "Stopped" in message
