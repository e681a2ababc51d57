"""What people read: messages on standard error, and text that any terminal can show."""

from __future__ import annotations

import codecs
import datetime
import io
import logging
import os
import re
import sys
from typing import Protocol

_BOLD_RED, _PLAIN = "\033[1;31m", "\033[0m"

#: What a message tells who calls from Python to give, such as backend='torchforce' or 'kernel'.
_ARGUMENT = re.compile(r"\bbackend=('\w+'(?: or '\w+')*)")

#: For terminals whose encoding lacks what our tables and messages use.
_SPELLED_OUT = {
    "φ": "phi", "ψ": "psi", "χ": "chi", "ω": "omega", "τ": "tau", "σ": "sigma", "Δ": "Delta",
    "±": "+-", "−": "-", "·": "*", "×": "x", "√": "sqrt", "∞": "inf", "°": " deg", "Å": "A",
    "²": "^2", "≥": ">=", "≤": "<=", "≈": "~", "→": "->", "–": "-", "…": "...", "µ": "u",
}  # fmt: skip


class Advance(Protocol):
    """Moves a bar to ``done`` of ``total`` (None: unknown) with a text beside it."""

    def __call__(self, done: int, total: int | None = None, text: str = "") -> None:
        """Move the bar."""


def say(text: str) -> None:
    """Print a line on standard error, so that standard output holds results only."""
    if sys.stderr is not None:  # closed by whoever started the command
        print(text, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Return whether somebody looks at standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def print_error(message: str) -> None:
    """Print an error message in one line on standard error."""
    line = " ".join(part.strip() for part in message.split("\n")).strip()  # some readers' are long
    line = as_options(line)
    coloured = is_terminal() and "NO_COLOR" not in os.environ
    say(f"{_BOLD_RED}error:{_PLAIN} {line}" if coloured else f"error: {line}")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return as_options(super().format(record))


def log_lines() -> logging.Handler:
    """Return what writes the log to standard error, in the words of the command line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    return handler


def as_options(text: str) -> str:
    """Return a message with options where it has the arguments of Python that they become."""
    return _ARGUMENT.sub(lambda found: f"--backend {found[1].replace(chr(39), '')}", text)


def allow_any_text() -> None:
    """Let nothing fail because the terminal, or the file behind it, cannot encode a character."""
    codecs.register_error("scoremd", _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="scoremd")


def flush_output() -> None:
    """Write what is still to be written to standard output, while an error can be reported."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # It would be tried again at the end of the process, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def share_done(done: int, total: int | None) -> str:
    """Return the part that is done, or the count where the whole is unknown."""
    return f"{done:,}" if total is None else f"{done / max(total, 1):.0%}"


def hours(seconds: float) -> str:
    """Return a time such as 1:02:03."""
    return str(datetime.timedelta(seconds=int(seconds)))


def _spelled_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_SPELLED_OUT.get(one, "?") for one in characters), error.end
