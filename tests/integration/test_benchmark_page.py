"""Benchmarks replace their own section of docs/performance.md and nothing else."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("performance_page")
    sys.modules.pop("performance_page", None)


@pytest.fixture
def record():
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "hardware": {
            "processor": "Abacus",
            "instructions": "BEADS",
            "system": "Wood x86_64",
            "cores": 10,
            "load_before": 0.1,
        },
        "versions": {"python": "3.11", "torch": "2", "openmm": "8", "openmmtorch": "1"},
        "threads": 3,
    }


def test_section_is_replaced_and_the_rest_kept(page):
    section = page.Section("one")
    other = page.Section("two")
    document = (
        f"before\n{section.begin}\nold\n{section.end}\nbetween\n"
        f"{other.begin}\nother\n{other.end}\nafter\n"
    )
    new = section.replaced(document, "new")
    assert new == document.replace("\nold\n", "\n\nnew\n\n")
    assert section.replaced(new, "new") == new


@pytest.mark.parametrize("document", ["no markers", "{0.begin}", "{0.begin}{0.begin}{0.end}"])
def test_markers_must_be_there_once(page, document):
    section = page.Section("one")
    with pytest.raises(SystemExit, match="needs one line"):
        section.replaced(document.format(section), "new")


def test_machine_is_named(page, record):
    record["hardware"]["load_before"] = 4.0
    text = page.machine_sentence(record, threads="threads")
    assert text.startswith("Measured on 2026-01-02: Abacus (BEADS, Wood x86_64), 10 cores")
    assert "threads: 3;" in text
    assert "load" not in text


def test_timings_on_a_busy_machine_are_preliminary(page, record):
    sentence = page.machine_sentence(record, threads="threads")
    assert page.timing_sentence(record, threads="threads") == sentence
    record["hardware"]["load_before"] = 4.0
    text = page.timing_sentence(record, threads="threads")
    assert text.startswith(sentence)
    assert "load average 4.0" in text


def test_table(page):
    table = page.markdown_table(("name", "a", "b"), [["x", "1", "2"]])
    assert table.splitlines() == ["| name | a | b |", "| --- | ---: | ---: |", "| x | 1 | 2 |"]
