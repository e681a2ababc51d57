"""Progress on standard error: a bar in a terminal, a line a minute in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from openmm_scoremd.cli.terminal import Advance, hours, is_terminal, say, share_done

#: Seconds between two lines where there is no terminal.
LINE_SECONDS = 60.0


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
