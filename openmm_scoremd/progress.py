"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Where progress and errors go, so that standard output holds results only.
console = Console(stderr=True)


class Advance(Protocol):
    """Moves a bar to ``done`` of ``total`` (None: unknown) with a text beside it."""

    def __call__(self, done: int, total: int | None = None, text: str = "") -> None:
        """Move the bar."""


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show a bar with elapsed and remaining time while the block runs.

    Parameters
    ----------
    title : str
        What is going on.

    Yields
    ------
    Advance
        Moves the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=None, text="")

        def advance(done: int, total: int | None = None, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=text)

        yield advance
