"""Old names of options and of their values."""

import functools
import warnings

import pytest

from openmm_scoremd.cli.main import COMMANDS
from openmm_scoremd.cli.parser import parser_of_function, with_new_names


def renamed(command, *words):
    """Return the command line with new names, and what was warned of."""
    parser = parser_of_function(COMMANDS[command], prog=f"scoremd {command}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = with_new_names(words, parser)
    assert {w.category for w in caught} <= {FutureWarning}
    return found, [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("command", "words", "expected", "said"),
    [
        ("evaluate", ["--level", "0.1"], ["--alpha", "0.1"], "--level is now called --alpha"),
        ("evaluate", ["--level=0.1"], ["--alpha=0.1"], "--level is now called --alpha"),
        (
            "simulate",
            ["--potential-scale", "2"],
            ["--potential-factor", "2"],
            "--potential-scale is now called --potential-factor",
        ),
        (
            "simulate",
            ["--backend", "compiled"],
            ["--backend", "kernel"],
            "--backend compiled is now called --backend kernel",
        ),
        (
            "refine",
            ["--backend=compiled"],
            ["--backend=kernel"],
            "--backend compiled is now called --backend kernel",
        ),
    ],
)
def test_old_names(command, words, expected, said):
    assert renamed(command, *words) == (expected, [said])


@pytest.mark.parametrize(
    "words",
    [
        ["a.pt", "b", "--alpha", "0.1", "--seed", "3"],
        ["compiled", "--level-of-detail", "compiled"],  # values and positions of the same name
        ["--backend", "auto", "compiled"],
        [],
    ],
)
def test_everything_else_stays(words):
    assert renamed("evaluate", *words) == (words, [])


def test_an_option_that_a_command_never_had_is_unknown_by_its_own_name():
    assert renamed("simulate", "--level", "0.1") == (["--level", "0.1"], [])


def test_the_command_says_so_in_one_line(scoremd, monkeypatch):
    given = []

    @functools.wraps(COMMANDS["evaluate"])
    def evaluate(**options):
        given.append(options)

    monkeypatch.setitem(COMMANDS, "evaluate", evaluate)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.warns(FutureWarning) as caught:
        assert scoremd("evaluate", "m.pt", "d.npz", "out", "--level", "0.2").code == 0
    assert given[0]["alpha"] == 0.2
    (warning,) = caught
    said = warnings.formatwarning(
        warning.message, warning.category, warning.filename, warning.lineno
    )
    assert said == "FutureWarning: --level is now called --alpha\n"
