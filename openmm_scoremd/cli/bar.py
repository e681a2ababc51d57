"""The bar of a terminal: the only owner of ``rich``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from openmm_scoremd.cli.terminal import Advance, hours, share_done

#: Where bars are drawn: standard output holds results only.
console = Console(stderr=True)


@contextmanager
def moving_bar(title: str) -> Iterator[Advance]:
    """Draw a bar while a block of code runs; see :func:`~openmm_scoremd.cli.progress.progress_bar`.

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
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        _DoneColumn(),
        _TimeColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    # Some steps report once a minute; the time left is to be known all the same.
    with Progress(*columns, console=console, speed_estimate_period=600.0) as bars:
        task = bars.add_task(title, total=None, text="")

        def advance(done: int, total: int | None = None, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=text)

        try:
            yield advance
        finally:
            # What failed before it began needs no bar above its error message.
            bars.update(task, visible=bars.tasks[0].completed > 0)


class _DoneColumn(ProgressColumn):
    """The part that is done, or the count where the whole is unknown."""

    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        return Text(share_done(int(task.completed), total).rjust(4))


class _TimeColumn(ProgressColumn):
    """The time left while the bar runs, then the time it took."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"{hours(task.finished_time or 0.0)} in all")
        if task.time_remaining is None:
            return Text(hours(task.elapsed or 0.0))
        return Text(f"{hours(task.time_remaining)} left")
