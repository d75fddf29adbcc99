"""Trains the neural ODE of the first post on MNIST and scores it.

    python experiments/mnist.py --adjoint backsolve
    python experiments/mnist.py evaluate runs/NAME --rtol 1e-3 --atol 1e-3
    python experiments/mnist.py table runs/NAME runs/OTHER

Each epoch is a line on the screen and one in `metrics.jsonl`. Exit codes: 0 done; 2
something that was given cannot be used, or the training failed, and a line or two say
what to do; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 a closed pipe, each with the state
saved and the command that goes on. Needs `pip install -e ".[experiments]"`.

JAX takes a second to import. So what needs it is imported within functions here: not
for a typing error, and not before Ctrl-C works.
"""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TYPE_CHECKING

from console.process import exit_code, in_one_line, require_device
from console.xla_cpu import cpu_devices, set_xla_cpu_flags, use_one_thread_if_small


if TYPE_CHECKING:
    from classifier.config import Config


def train(config: "Config") -> dict[str, Any]:
    """Trains, or goes on training, as the settings say.

    Returns:
        The last epoch's object of `metrics.jsonl`.
    """
    import jax

    from classifier.data import Data
    from classifier.loop import RunStopped, Trainer
    from classifier.run import Run
    from classifier.setup import build_model, build_optimiser
    from console.precision import enable_x64
    from console.signals import saving_first
    from jaxode.training import TrainState

    with (
        Run.open(config) as run,
        jax.default_matmul_precision(config.precision),
        enable_x64(run.x64),
    ):
        data = Data.of(config, run.load_data())
        model = build_model(config)
        optimiser = build_optimiser(config, data.steps_per_epoch)
        state = run.begin(data, TrainState.create(model, optimiser))
        trainer = Trainer(config, data, optimiser, run.reporter)
        if run.epochs_left:
            programs = run.compile(trainer, state)
            try:
                for _ in run.epochs_left:
                    # A kill while scoring loses nothing of what was trained.
                    with saving_first():
                        part = run.saved.next_part
                        state, part = trainer.train_epoch(
                            state, part, programs, run.after_rows
                        )
                        run.save(state, part)
                        run.stop_if_asked()
                    record = trainer.score_epoch(state, part, programs)
                    with saving_first():
                        run.keep(state, record)
                        run.stop_if_asked()
            except RunStopped as stop:
                raise run.give_up(stop) from stop
        return run.finish()


def main(arguments: Sequence[str] | None = None) -> Any:
    """Does what a command line asks for.

    Returns:
        The last epoch's object of `metrics.jsonl`, the score of an evaluation, or the
        rows of a table.

    Raises:
        InputError: with all that the user needs to see.
    """
    from classifier.checks import check
    from classifier.config import EvaluateConfig, TableConfig
    from console.command_line import parse

    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["evaluate"]:
        asked = parse(EvaluateConfig, arguments[1:], "mnist.py evaluate")
        set_xla_cpu_flags()
        from classifier.evaluation import evaluate

        is_distributed = False
        work = partial(evaluate, asked)
    elif arguments[:1] == ["table"]:
        listed = parse(TableConfig, arguments[1:], "mnist.py table")
        from classifier.table import table

        with in_one_line():
            return table(listed)
    else:
        config = read_settings(arguments)
        check(config)
        is_distributed = config.distributed
        solved_at_once = -(-config.batch_size // config.accumulate)
        use_one_thread_if_small(solved_at_once, config.channels)
        # Several processes of one machine share its cores without this.
        best = 1 if is_distributed else cpu_devices(solved_at_once)
        set_xla_cpu_flags(config.devices or best)
        work = partial(train_in_processes if is_distributed else train, config)

    from console.compilation_cache import use_compilation_cache

    use_compilation_cache()
    if not is_distributed:  # where the others must be found first
        require_device()
    with in_one_line():
        return work()


def train_in_processes(config: "Config") -> dict[str, Any]:
    """`train`, in as many processes as the settings say."""
    from classifier.processes import in_processes

    return in_processes(train, config)


def read_settings(arguments: Sequence[str]) -> "Config":
    """The settings of a training run, checked for their types only."""
    from classifier.config import Config
    from classifier.presets import defaults
    from classifier.run_folder import read_run
    from console.command_line import parse, peek

    resumed = peek(arguments, "--resume")
    if resumed is None:
        preset = peek(arguments, "--preset") or "default"
        asked = (peek(arguments, name) for name in ("--model", "--adjoint"))
        default = defaults(preset, *asked)
    else:
        # Whatever is not given is as in the run, so what differs was asked for.
        _, default, _ = read_run(Path(resumed))
    config = parse(Config, arguments, "mnist.py", default)
    if config.decay_epochs is None:
        # Kept as a number, so that the rate of a run resumed for more is as it was.
        config = dataclasses.replace(config, decay_epochs=float(config.epochs))
    return config


if __name__ == "__main__":
    sys.exit(exit_code(main, "mnist.py"))
