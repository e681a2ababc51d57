"""Progress goes to standard error: a bar that fits a terminal, few lines in a log file."""

import io
import re

import pytest
from rich.console import Console

from openmm_scoremd.cli import bar, progress
from openmm_scoremd.cli.progress import progress_bar


def screen_after(text):
    """Return the lines a terminal shows: line feeds, returns, cursor up and erased lines count."""
    rows, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", text):
        if token == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif token == "\r":
            column = 0
        elif token.endswith("A") and len(token) > 1:
            row -= int(token[2:-1])
        elif token.endswith("K") and len(token) > 1:
            rows[row] = ""
        elif len(token) == 1:
            rows[row] = rows[row][:column].ljust(column) + token + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows if line.strip()]


@pytest.fixture
def screen(monkeypatch):
    """Standard error as an 80-column terminal; returns what it shows. ``screen.clock``: seconds."""

    class Screen:
        clock = 100.0
        file = io.StringIO()

        def __call__(self) -> list[str]:
            return screen_after(self.file.getvalue())

    screen = Screen()
    console = Console(
        file=screen.file,
        force_terminal=True,
        width=80,
        color_system=None,
        get_time=lambda: screen.clock,
    )
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setattr(bar, "console", console)
    return screen


@pytest.fixture
def log(monkeypatch, capsys):
    """Standard error as a file; returns its lines. ``log.clock`` is the time in seconds."""

    class Log:
        clock = 100.0

        def __call__(self) -> list[str]:
            return capsys.readouterr().err.splitlines()

    log = Log()
    monkeypatch.setattr("openmm_scoremd.cli.progress.time.monotonic", lambda: log.clock)
    return log


class TestTerminal:
    def test_bar_with_text_fits_80_columns(self, screen):
        with progress_bar("training") as advance:
            for step in range(0, 46_800, 7_800):
                advance(step + 7_800, 46_800, "loss 0.1234  123,456 samples/s")
        last = screen()[-1]
        assert last.startswith("training ━")
        assert last.endswith("100% 0:00:00 in all loss 0.1234  123,456 samples/s")
        assert all(len(line) <= 80 for line in screen())

    def test_unfinished_bar_says_how_far_it_came(self, screen):
        with progress_bar("training") as advance:
            advance(1, 4)
        assert " 25% " in screen()[-1]
        assert "in all" not in screen()[-1]

    def test_count_where_the_whole_is_unknown(self, screen):
        with progress_bar("reading frames") as advance:
            advance(12_000)
        assert "12,000" in screen()[-1]
        assert "%" not in screen()[-1]

    def test_brackets_are_text(self, screen):
        with progress_bar("[bold]title") as advance:
            advance(1, 2, "[red]text")
        assert "[bold]title" in screen()[-1]
        assert "[red]text" in screen()[-1]

    def test_nothing_stays_of_what_failed_before_it_began(self, screen):
        def fail():
            with progress_bar("training"):
                raise ValueError("no data")

        with pytest.raises(ValueError, match="no data"):
            fail()
        assert screen() == []

    def test_bar_of_what_failed_later_stays(self, screen):
        def fail():
            with progress_bar("training") as advance:
                advance(1, 2)
                raise ValueError("NaN")

        with pytest.raises(ValueError, match="NaN"):
            fail()
        assert " 50% " in screen()[-1]

    def test_time_left_also_between_rare_updates(self, screen):
        with progress_bar("training") as advance:
            for done in range(0, 50, 10):
                screen.clock += 60.0
                advance(done, 100)
        assert screen()[-1].endswith("40% 0:06:00 left")

    def test_time_it_took(self, screen):
        with progress_bar("training") as advance:
            screen.clock += 3723.0
            advance(5, 5)
        assert screen()[-1].endswith("100% 1:02:03 in all")


class TestLogFile:
    def test_one_line_a_minute_and_one_at_the_end(self, log):
        with progress_bar("training") as advance:
            for done in range(1, 13):
                log.clock += 10.0
                advance(done, 12, f"loss {done}")
        assert log() == [
            "training: 50%, after 0:01:00, loss 6",
            "training: 100%, after 0:02:00, loss 12",
        ]

    def test_count_where_the_whole_is_unknown(self, log):
        with progress_bar("reading frames") as advance:
            for done in (1_000, 2_000):
                log.clock += 45.0
                advance(done)
        assert log() == ["reading frames: 2,000, after 0:01:30"]

    def test_long_lines_are_not_broken(self, log):
        with progress_bar("training") as advance:
            advance(1, 1, "x" * 200)
        assert len(log()) == 1


def test_standard_output_stays_empty(capsys):
    with progress_bar("training") as advance:
        advance(1, 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "training: 100%" in captured.err
