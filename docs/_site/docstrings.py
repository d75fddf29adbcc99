"""Runs the examples in the docstrings of public names, as a reader would: see hooks.py.

    python docs/_site/docstrings.py [NAME ...]

Each runs by itself, with nothing imported. What is not as the docstring says is
printed, and the exit code is 1 then. Names such as jaxode.odeint restrict it to those.
"""

import doctest
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from typing import Any

import jaxode


MODULES = (jaxode, jaxode.nn, jaxode.training, jaxode.datasets)
# Examples that run where a library of an extra is installed.
NEEDS = {"jaxode.datasets.stream": "grain"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names() -> Iterator[tuple[str, Any]]:
    """Functions and classes, each with the name by which it is imported."""
    for module in MODULES:
        for name, value in sorted(vars(module).items()):
            home = getattr(value, "__module__", None) or ""
            if callable(value) and home.startswith("jaxode.") and name[0] != "_":
                yield f"{module.__name__}.{name}", value


def example_of(name: str, value: Any) -> doctest.DocTest:
    """Line numbers are those in the docstring."""
    parser = doctest.DocTestParser()
    return parser.get_doctest(value.__doc__ or "", {}, name, name, None)


def is_runnable(name: str) -> bool:
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None


def run(names: list[str]) -> int:
    """Returns how many lines failed."""
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, value in public_names():
            if (not names or name in names) and is_runnable(name):
                runner.run(example_of(name, value))
    print(f"{runner.tries} lines of examples, {runner.failures} failed")
    return runner.failures


if __name__ == "__main__":
    sys.exit(bool(run(sys.argv[1:])))
