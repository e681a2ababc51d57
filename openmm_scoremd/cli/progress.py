"""Progress on standard error: a bar in a terminal, a line a minute in a log."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from openmm_scoremd.cli.terminal import is_terminal, say

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
    if not is_terminal():
        yield _lines(title)
        return
    from openmm_scoremd.cli.bar import moving_bar  # rich takes a moment to import

    with moving_bar(title) as advance:
        yield advance


def share_done(done: int, total: int | None) -> str:
    """Return the part that is done, or the count where the whole is unknown."""
    return f"{done:,}" if total is None else f"{done / max(total, 1):.0%}"


def hours(seconds: float) -> str:
    """Return a time such as 1:02:03."""
    return str(datetime.timedelta(seconds=int(seconds)))


def _lines(title: str) -> Advance:
    """Return an advance that prints at most one line a minute, and one at the end."""
    began = shown = time.monotonic()

    def advance(done: int, total: int | None = None, text: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < LINE_SECONDS and done != total:
            return
        shown = now
        parts = (f"{title}: {share_done(done, total)}", f"after {hours(now - began)}", text)
        say(", ".join(part for part in parts if part))

    return advance
