"""What a person sees: a progress bar on a terminal, plain lines anywhere else."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)

from console.process import discard_output
from console.signals import ask_to_stop, BROKEN_PIPE, write_error


_Item = TypeVar("_Item")

Show = Callable[[int, float, float | None, int], None]
"""`show(images done, seconds since the start, mean loss, steps skipped)`."""

_PLAIN_EVERY_S = 30.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves to whoever prints what to do, where rich would end the program."""
        raise  # noqa: PLE0704  rich calls this where it has caught the error


class Reporter:
    """Prints to standard output."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        # soft_wrap: a line stays one line, for whoever reads it with another program.
        self.console = _Console(markup=False, highlight=False, soft_wrap=True)
        self.is_live = self.console.is_terminal and not quiet

    def info(self, line: str) -> None:
        """A line that --quiet leaves out."""
        if not self.quiet:
            self.result(line)

    def result(self, line: str) -> None:
        """A line that is always there."""
        self._print(line)

    def notice(self, line: str) -> None:
        """Something that must not be missed."""
        bar = "!" * 72
        style = "bold yellow" if self.is_live else None
        self._print(f"{bar}\n{line}\n{bar}", style)

    def _print(self, line: str, style: str | None = None) -> None:
        """A line; where nobody reads it any more, a command is to stop."""
        try:
            self.console.print(line, style=style)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            ask_to_stop(BROKEN_PIPE, "Standard output was closed.")
        except OSError as error:
            discard_output()
            reason = error.strerror or error
            write_error(f"Standard output is left out: it cannot be written ({reason})")

    @contextlib.contextmanager
    def epoch(self, title: str, num_images: int) -> Iterator[Show]:
        """Shows the progress of one epoch while the body runs."""
        if self.is_live:
            with self._bar() as bar:
                task = bar.add_task(title, total=num_images, speed="", loss="")

                def show(images, seconds, loss, skipped):
                    speed = f"{images / seconds:,.0f} images/s" if seconds else ""
                    text = _loss_text(loss, skipped)
                    bar.update(task, completed=images, speed=speed, loss=text)

                yield show
        else:
            yield self._plain_progress(title, num_images)

    def each(self, items: Sequence[_Item], title: str) -> Iterator[_Item]:
        """The items, with a progress bar on a terminal."""
        return iter(
            track(
                items,
                title,
                console=self.console,
                transient=True,
                disable=not self.is_live,
            )
        )

    def _bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[speed]}", markup=False),
            TextColumn("{task.fields[loss]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left", markup=False),
        )
        # Transient: the line of the epoch takes the bar's place.
        return Progress(
            *columns,
            console=self.console,
            transient=True,
            expand=True,
            refresh_per_second=4,
        )

    def _plain_progress(self, title: str, num_images: int) -> Show:
        last = time.perf_counter()

        def show(images, seconds, loss, skipped):
            nonlocal last
            if self.quiet or time.perf_counter() - last < _PLAIN_EVERY_S:
                return
            last = time.perf_counter()
            left = (num_images - images) * seconds / images
            self.info(
                f"{title}  {images / num_images:4.0%}  {images / seconds:,.0f} images/s"
                f"  {_loss_text(loss, skipped)}  {left:.0f} s left"
            )

        return show


def number(value: float | None) -> str:
    """A loss; `None` is one that was not finite."""
    return "not finite" if value is None else f"{value:.4f}"


def _loss_text(loss: float | None, skipped: int) -> str:
    text = f"loss {number(loss)}"
    return f"{text}  {skipped} skipped" if skipped else text
