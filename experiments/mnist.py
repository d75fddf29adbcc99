"""Trains the neural ODE of the first post on MNIST and scores it.

    python experiments/mnist.py --adjoint backsolve
    python experiments/mnist.py evaluate runs/NAME --rtol 1e-3 --atol 1e-3

Each epoch is a line on the screen and one in `metrics.jsonl`. Exit codes: 0 done; 2
something that was given cannot be used, or the training failed, and a line or two say
what to do; 130 Ctrl-C. Needs `pip install -e ".[experiments]"`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _start import exit_code, set_xla_cpu_flags, use_one_thread_if_small


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Does what a command line asks for.

    Returns:
        The last epoch's object of `metrics.jsonl`, or the score of an evaluation.

    Raises:
        InputError: with all that the user needs to see.
    """
    # JAX takes a second to import: not for a typing error, and not before Ctrl-C works.
    from _command_line import check, InputError, parse
    from _config import EvaluateConfig

    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["evaluate"]:
        asked = parse(EvaluateConfig, arguments[1:], "mnist.py evaluate")
        set_xla_cpu_flags()
        from _evaluation import evaluate

        run = partial(evaluate, asked)
    else:
        config = read_settings(arguments)
        check(config)
        set_xla_cpu_flags()
        use_one_thread_if_small(config.batch_size, config.channels)
        from _training import train

        run = partial(train, config)

    from _compilation_cache import use_compilation_cache

    import jaxode

    use_compilation_cache()
    try:
        return run()
    except (
        jaxode.datasets.DataError,
        jaxode.training.CheckpointError,
        OSError,
    ) as error:
        raise InputError(str(error)) from error


def read_settings(arguments: Sequence[str]):
    """The settings of a training run, checked for their types only."""
    from _command_line import parse, peek
    from _config import Config, PRESETS
    from _run_folder import read_run

    resumed = peek(arguments, "--resume")
    if resumed is None:
        preset = peek(arguments, "--preset") or "default"
        # An unknown name is left for the parser to complain about.
        default = PRESETS.get(preset, PRESETS["default"])
    else:
        # Whatever is not given is as in the run, so what differs was asked for.
        _, default, _ = read_run(Path(resumed))
    return parse(Config, arguments, "mnist.py", default)


if __name__ == "__main__":
    sys.exit(exit_code(main, "mnist.py"))
