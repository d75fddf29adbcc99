"""How far a long comparison is."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(wanted: bool, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error while the body runs.

    Yields:
        A function to call with what has just been done, `total` times.
    """
    if not wanted or importlib.util.find_spec("rich") is None:
        yield lambda title: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Off a terminal nothing is drawn, so logs stay free of it.
    console = Console(stderr=True)
    disable = not console.is_terminal
    with Progress(*columns, console=console, disable=disable) as shown:
        task = shown.add_task("reference", total=total)
        yield lambda title: shown.update(task, advance=1, description=title)
