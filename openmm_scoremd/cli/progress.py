"""Progress on standard error, a bar in a terminal or a line a minute in a log; Ctrl-C, SIGTERM."""

from __future__ import annotations

import datetime
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

#: Where progress and errors go, so that standard output holds results only.
console = Console(stderr=True)

#: Seconds between two lines where there is no terminal.
LINE_SECONDS = 60.0


class Advance(Protocol):
    """Moves a bar to ``done`` of ``total`` (None: unknown) with a text beside it."""

    def __call__(self, done: int, total: int | None = None, text: str = "") -> None:
        """Move the bar."""


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show how far a block of code is, with the time it still needs.

    Parameters
    ----------
    title : str
        What is going on.

    Yields
    ------
    Advance
        Moves the bar.
    """
    if not console.is_terminal:
        yield _lines(title)
        return
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


@contextmanager
def signals_held_back() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM stop a block only where it looks, so that nothing is half-written.

    The second one stops it wherever it is.

    Yields
    ------
    callable
        Whether a signal came.
    """
    received: list[int] = []

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def remember(number: int, _frame: object) -> None:
        received.append(number)
        restore()

    numbers = (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        restore()


def _lines(title: str) -> Advance:
    """Return an advance that prints at most one line a minute, and one at the end."""
    began = shown = time.monotonic()

    def advance(done: int, total: int | None = None, text: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < LINE_SECONDS and done != total:
            return
        shown = now
        parts = (f"{title}: {_share(done, total)}", f"after {_hours(now - began)}", text)
        console.out(", ".join(part for part in parts if part), highlight=False)

    return advance


class _DoneColumn(ProgressColumn):
    """The part that is done, or the count where the whole is unknown."""

    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        return Text(_share(int(task.completed), total).rjust(4))


class _TimeColumn(ProgressColumn):
    """The time left while the bar runs, then the time it took."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"{_hours(task.finished_time or 0.0)} in all")
        if task.time_remaining is None:
            return Text(_hours(task.elapsed or 0.0))
        return Text(f"{_hours(task.time_remaining)} left")


def _share(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done / max(total, 1):.0%}"


def _hours(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))
