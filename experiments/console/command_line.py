"""From a command line to settings, or to a line that says why not.

Free of JAX, so that `--help` and a typing error take no time.
"""

import argparse
import contextlib
import io
import re
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import tyro


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
    description: str | None = None,
) -> _Settings:
    """Reads a command line; tyro's framed complaint becomes one line.

    Args:
        kind: A dataclass whose fields are the options.
        arguments: The command line.
        prog: What the command is called.
        default: Values of what is not given; those of the class if `None`.
        description: For `--help`; the docstring of the class if `None`.

    Raises:
        InputError: if an option is unknown or its value has the wrong type.
        SystemExit: after `--help`.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            read = partial(
                tyro.cli, kind, args=arguments, prog=prog, description=description
            )
            return read() if default is None else read(default=default)
    except SystemExit as end:
        if not end.code:
            raise
    raise InputError(f"{_one_line(complaint.getvalue())}. --help lists all options.")


def _one_line(framed: str) -> str:
    """The first sentence in a framed message of tyro's."""
    text = re.sub(r"^╭.*$|[│╰╯─━]+", " ", framed, flags=re.MULTILINE)
    text = re.sub(r"(For full|Argument) helptext.*", "", text, flags=re.DOTALL)
    # A choice that may be left out is listed in the order of a set, with None.
    chosen = re.search(r"one of \((.*)\)", text, flags=re.DOTALL)
    if chosen is not None:
        names = sorted(set(re.findall(r"'([^']*)'", chosen[1])) - {"None"})
        text = text[: chosen.start(1)] + ", ".join(names) + text[chosen.end(1) :]
    return " ".join(text.split()).rstrip(".")
