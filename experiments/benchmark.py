"""Times jaxode against plain Diffrax and, if asked, PyTorch, on the MNIST network.

    python experiments/benchmark.py
    python experiments/benchmark.py --torch-python ~/torch-env/bin/python
    python experiments/benchmark.py --headline --torch-python ~/torch-env/bin/python
    python experiments/benchmark.py --paper --torch-python ~/torch-env/bin/python
    python experiments/benchmark.py --fields --torch-python ~/torch-env/bin/python

All contestants have the same weights, images and tolerance, and take turns in one run,
round after round, since the speed of a machine drifts. A row shows the median over the
rounds, and the field calls that each contestant made: a comparison at unequal work has
to show that it is one. Calls include those repeated inside a gradient. A contestant
that takes more than `--slow` seconds is timed once, and left out where a run would take
more than `--longest`, by its time at a smaller batch. Each has a process of its own.
jaxode and plain Diffrax have the same flags of XLA, those of `mnist.py` unless
`XLA_FLAGS` is set. jaxode has the threads that `mnist.py` takes, a single one for a
small state; the others have all, since they are slower with one.

`--headline` takes a few minutes on two cores, the whole grid more than an hour: the
slowest cells, which come last, take plain Diffrax minutes for a single run. Stopped, it
goes on with `--resume DIR`.

`--paper` takes the network of the ODE-Net paper, with 64 channels in batches of 128 at
tolerance 1e-3: minutes too, plain Diffrax most of them.

`--fields` takes general problems instead, with nothing like a convolution in them, and
has `jax.experimental.ode` compete too. Everyone is called with its defaults, and so is
XLA. The first call is measured as well, and how wrong each gradient is. Of the options
`--rounds`, `--seconds`, `--out`, `--problems`, `--adjoints` and `--torch-python` apply.

`--torch-python` is a Python with torch and torchdiffeq; this project's own has neither.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from console.process import exit_code, in_one_line, require_device
from console.xla_cpu import set_xla_cpu_flags


def main(arguments: Sequence[str] | None = None) -> Path:
    """Does what a command line asks for.

    Returns:
        The folder with the results.

    Raises:
        InputError: with all that the user needs to see.
    """
    from console.command_line import parse
    from speed.config import check, Config

    arguments = sys.argv[1:] if arguments is None else arguments
    config = parse(Config, arguments, "benchmark.py", description=__doc__)
    check(config)
    if config.fields:
        # First calls are measured, which must not find an earlier process's programs.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    else:
        set_xla_cpu_flags()
    # Here, since it imports JAX: not for a typing error, nor before Ctrl-C works.
    require_device()
    with in_one_line():
        if config.fields:
            from speed.fields import run_fields

            return run_fields(config)
        from speed.run import run

        return run(config)


if __name__ == "__main__":
    sys.exit(exit_code(main, "benchmark.py"))
