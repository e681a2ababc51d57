"""Benchmarks replace their own section of docs/performance.md and nothing else."""

import json

import pytest

from openmm_scoremd._files.run_record import sha256_of_file


@pytest.fixture
def page(import_benchmark):
    return import_benchmark("performance_page")


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


@pytest.mark.parametrize(
    "name", ["simulation", "training", "energy_drift", "engine_overhead", "scaling"]
)
def test_page_shows_the_stored_record(import_benchmark, page, name):
    benchmark = import_benchmark(name)
    document = page.PAGE.read_text(encoding="utf-8")
    record = json.loads(benchmark.OUTPUT.read_text(encoding="utf-8"))
    assert benchmark.SECTION.replaced(document, benchmark.markdown(record)) == document
    assert getattr(benchmark, "PICTURE", benchmark.OUTPUT).is_file()


def test_records_are_of_the_shipped_model(import_benchmark):
    simulation, drift = import_benchmark("simulation"), import_benchmark("energy_drift")
    shipped = sha256_of_file(simulation.SHIPPED)
    records = [json.loads(b.OUTPUT.read_text(encoding="utf-8")) for b in (simulation, drift)]
    assert [records[0]["networks"][-1]["sha256"], records[1]["sha256"]] == [shipped] * 2
