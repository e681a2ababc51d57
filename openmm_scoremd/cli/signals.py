"""Ctrl-C and SIGTERM: at once, or between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_remembered() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` as usual, and remember it.

    A callback of C++ code, or an extension module that is just being imported, turns it into some
    other error.

    Yields
    ------
    callable
        Whether Ctrl-C was pressed.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT)
    # Other handlers, and the choice to ignore it, are somebody's wish; threads cannot have any.
    ours = usual is signal.default_int_handler and (
        threading.current_thread() is threading.main_thread()
    )
    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(received)
    finally:
        if ours:
            signal.signal(signal.SIGINT, usual)


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
