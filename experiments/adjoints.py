"""Compares the ways of taking gradients: what they cost, and where they break.

    python experiments/adjoints.py
    python experiments/adjoints.py --parts solvers twins --run runs/NAME
    python experiments/adjoints.py --redraw runs/NAME

Writes a folder with a table (JSON and CSV) and a figure for each part: memory, error
against tolerance and seconds, field calls along training, error against the horizon,
trained networks under other solvers, and their discrete twins. Everything is measured
in this one call. A gradient that cannot be had is a row of the table that says why.
All parts take about half an hour on two cores, `--quick` two minutes. Exit codes: 0
done; 2 something that was given cannot be used, and a line says what to do; 130 Ctrl-C.
Needs `pip install -e ".[experiments]"`.

JAX takes a second to import. So what needs it is imported within functions here: not
for a typing error, and not before Ctrl-C works.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from console.process import exit_code, in_one_line, require_device
from console.xla_cpu import set_xla_cpu_flags


def main(arguments: Sequence[str] | None = None) -> Path:
    """Does what a command line asks for.

    Returns:
        The folder with tables and figures.

    Raises:
        InputError: with all that the user needs to see.
    """
    from adjoint_study.config import AdjointsConfig, check
    from console.command_line import parse

    arguments = sys.argv[1:] if arguments is None else arguments
    config = parse(AdjointsConfig, arguments, "adjoints.py")
    check(config)
    if config.redraw is not None:
        return redraw(config.redraw)

    set_xla_cpu_flags()
    from adjoint_study.run import run
    from console.compilation_cache import use_compilation_cache

    # A full run measures compilation too, which must not come from an earlier one.
    if config.quick:
        use_compilation_cache()
    require_device()
    with in_one_line():
        return run(config)


def redraw(folder: Path) -> Path:
    """Draws the figures of an earlier call again, from its tables."""
    from adjoint_study.config import PARTS
    from adjoint_study.figures import draw
    from adjoint_study.tables import read_tables

    draw(folder, read_tables(folder, PARTS))
    print(f"Figures drawn again in {folder}")
    return folder


if __name__ == "__main__":
    sys.exit(exit_code(main, "adjoints.py"))
