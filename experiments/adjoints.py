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
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from _start import exit_code, set_xla_cpu_flags


def main(arguments: Sequence[str] | None = None) -> Path:
    """Does what a command line asks for.

    Returns:
        The folder with tables and figures.

    Raises:
        InputError: with all that the user needs to see.
    """
    # JAX takes a second to import: not for a typing error, and not before Ctrl-C works.
    from _adjoints_config import AdjointsConfig, check, PARTS
    from _command_line import InputError, parse

    arguments = sys.argv[1:] if arguments is None else arguments
    config = parse(AdjointsConfig, arguments, "adjoints.py")
    check(config)
    if config.redraw is not None:
        from _adjoints_figures import draw
        from _adjoints_tables import read_tables

        draw(config.redraw, read_tables(config.redraw, PARTS))
        print(f"Figures drawn again in {config.redraw}")
        return config.redraw

    set_xla_cpu_flags()
    from _adjoints_run import run
    from _compilation_cache import use_compilation_cache

    import jaxode

    # A full run measures compilation too, which must not come from an earlier one.
    if config.quick:
        use_compilation_cache()
    try:
        return run(config)
    except (
        jaxode.datasets.DataError,
        jaxode.training.CheckpointError,
        OSError,
    ) as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    sys.exit(exit_code(main, "adjoints.py"))
