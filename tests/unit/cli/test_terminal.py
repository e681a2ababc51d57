"""Text for any terminal."""

import io
import logging
import sys

import pytest

from openmm_scoremd.cli.main import main
from openmm_scoremd.cli.terminal import (
    allow_any_text,
    as_options,
    flush_output,
    log_lines,
    print_error,
)


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that replaces both streams by ones of an encoding, and returns them."""

    def make(encoding):
        streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            text = io.TextIOWrapper(stream, encoding=encoding, write_through=True)
            monkeypatch.setattr(sys, name, text)
        return streams

    return make


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "P(φ > 0) 0.1 ± 0.2 Å², 龜 ?"),
        ("latin-1", "P(phi > 0) 0.1 ± 0.2 Å², ? ?"),
        ("ascii", "P(phi > 0) 0.1 +- 0.2 A^2, ? ?"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(terminal, encoding, expected):
    streams = terminal(encoding)
    allow_any_text()
    for stream in (sys.stdout, sys.stderr):
        # The last is part of a file name that is no text in the encoding of the file system.
        print("P(φ > 0) 0.1 ± 0.2 Å², 龜 \udcff", file=stream)
    assert {s.getvalue().decode(encoding) for s in streams.values()} == {f"{expected}\n"}


def test_error_messages_of_the_command(terminal):
    streams = terminal("latin-1")
    assert main(["info", "φ\udcff.pt"]) == 2
    assert streams["stderr"].getvalue().startswith(b"error: ")
    assert b"phi?.pt" in streams["stderr"].getvalue()


def test_streams_that_somebody_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["nonsense"]) == 2
    flush_output()


def test_errors_are_red_in_a_terminal_that_wants_it(monkeypatch, capsys):
    for wants in (True, False):
        monkeypatch.setattr("openmm_scoremd.cli.terminal.is_terminal", lambda: True)
        monkeypatch.delenv("NO_COLOR", raising=False)
        if not wants:
            monkeypatch.setenv("NO_COLOR", "1")
        assert main(["nonsense"]) == 2
        assert ("\x1b[1;31merror:\x1b[0m unknown" in capsys.readouterr().err) == wants


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("choose backend='pythonforce'", "choose --backend pythonforce"),
        (
            "or use backend='torchforce' or 'pythonforce'.",
            "or use --backend torchforce or pythonforce.",
        ),
        ("backend 'auto' is used; backend=None", "backend 'auto' is used; backend=None"),
    ],
)
def test_messages_name_options_and_not_arguments(said, shown, capsys):
    assert as_options(said) == shown
    print_error(said)
    assert capsys.readouterr().err == f"error: {shown}\n"
    record = logging.LogRecord("x", logging.WARNING, "", 0, "why: %s", (said,), None)
    assert log_lines().format(record) == f"WARNING: why: {shown}"
