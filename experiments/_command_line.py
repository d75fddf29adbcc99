"""From a command line to settings that make sense, or to a line that says why not."""

import argparse
import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro
from _config import Config, NOT_ADAPTIVE, NOT_COMPARED


class InputError(Exception):
    """Something the user gave cannot be used; the message is all they need to see."""


_Settings = TypeVar("_Settings")


def peek(arguments: Sequence[str], option: str) -> str | None:
    """The value of one option, read before the others because they depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", dest="value")
    return parser.parse_known_args(arguments)[0].value


def parse(
    kind: type[_Settings],
    arguments: Sequence[str],
    prog: str,
    default: _Settings | None = None,
) -> _Settings:
    """Reads a command line; tyro's framed complaint becomes one line.

    Raises:
        InputError: if an option is unknown or its value has the wrong type.
        SystemExit: after `--help`.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(kind, args=arguments, prog=prog)
            return tyro.cli(kind, args=arguments, prog=prog, default=default)
    except SystemExit as end:
        if not end.code:
            raise
    raise InputError(f"{_one_line(complaint.getvalue())}. --help lists all options.")


def _one_line(framed: str) -> str:
    """The first sentence in a framed message of tyro's."""
    text = re.sub(r"^╭.*$|[│╰╯─━]+", " ", framed, flags=re.M)
    text = re.sub(r"(For full|Argument) helptext.*", "", text, flags=re.S)
    # A choice that may be left out is listed in the order of a set, with None.
    chosen = re.search(r"one of \((.*)\)", text, flags=re.S)
    if chosen is not None:
        names = sorted(set(re.findall(r"'([^']*)'", chosen[1])) - {"None"})
        text = text[: chosen.start(1)] + ", ".join(names) + text[chosen.end(1) :]
    return " ".join(text.split()).rstrip(".")


def check(config: Config) -> None:
    """Refuses values that make no sense, before anything is read or written.

    Raises:
        InputError: naming the option, what it must be and what it was.
    """
    positive = "epochs batch_size lr channels rtol atol dt0 max_steps eval_batch_size"
    for name in [*positive.split(), "train_size"]:
        value = getattr(config, name)
        _require(value is None or value > 0, name, "must be above 0", value)
        _require(value is None or value < float("inf"), name, "must be finite", value)
    for name in (
        "momentum clip_norm speed_decay warmup_epochs decay_epochs shift holdout"
    ).split():
        value = getattr(config, name)
        _require(value >= 0, name, "must not be negative", value)
        _require(value < float("inf"), name, "must be finite", value)
    _require(config.momentum < 1, "momentum", "must be below 1", config.momentum)
    _require(config.shift < 28, "shift", "must be below 28 pixels", config.shift)
    _require(
        0 <= config.seed < 2**32, "seed", "must be from 0 to 2**32 - 1", config.seed
    )
    # Group normalisation has min(32, channels) groups, which must divide the channels.
    is_divisible = config.channels % min(32, config.channels) == 0
    need = "must be at most 32 or a multiple of 32"
    _require(is_divisible, "channels", need, config.channels)
    if config.decay_epochs:
        longer = config.decay_epochs > config.warmup_epochs
        need = f"must be 0 or above --warmup-epochs ({config.warmup_epochs})"
        _require(longer, "decay_epochs", need, config.decay_epochs)
    if config.fixed_steps and config.dt0 is None:
        raise InputError("--fixed-steps needs the length of the steps: add --dt0 0.1.")
    if config.solver in NOT_ADAPTIVE and not config.fixed_steps:
        raise InputError(
            f"--solver {config.solver} has no error estimate to adapt its steps by: "
            "add --fixed-steps --dt0 0.1, or take dopri5."
        )


def _require(condition: bool, name: str, need: str, value: object) -> None:
    if not condition:
        raise InputError(f"--{name.replace('_', '-')} {need}; got {value}.")


def check_resumed(config: Config, stored: Config, done_epochs: int) -> None:
    """Refuses to go on with a run under settings other than its own.

    Raises:
        InputError: naming the settings that differ, with both values.
    """
    names = [f.name for f in dataclasses.fields(Config) if f.name not in NOT_COMPARED]
    differing = [
        f"--{name.replace('_', '-')} {getattr(stored, name)} (now {given})"
        for name in names
        if (given := getattr(config, name)) != getattr(stored, name)
    ]
    if differing:
        raise InputError(
            f"{config.resume} was made with other settings: {', '.join(differing)}. "
            "Resume it without these options, or start a new run."
        )
    assert config.resume is not None
    if config.out is not None and config.out.resolve() != config.resume.resolve():
        raise InputError(
            "--out and --resume name different folders; a resumed run stays in its own."
        )
    if config.epochs < max(stored.epochs, done_epochs):
        raise InputError(
            f"--epochs may be raised for a resumed run, but {config.epochs} is below "
            f"the {max(stored.epochs, done_epochs)} of {config.resume}."
        )
