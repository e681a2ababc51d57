"""The scaling benchmark runs and says what it measured; no timing is tested."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/scaling.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    names = ("scaling", "simulation", "plain_network")
    yield importlib.import_module(names[0])
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_record(tmp_path):
    output = tmp_path / "scaling.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    rows = [(row["variant"], row["n_beads"], row["replicas"]) for row in record["results"]]
    assert rows == [(v, n, 50 // n) for n in (5, 10) for v in ("explicit", "compiled")]
    assert all(row["cpu_us_per_replica"] > 0.0 for row in record["results"])
    assert {"processor", "cores"} <= set(record["hardware"])


def test_documentation_shows_the_stored_record(benchmark):
    document = benchmark.DOCS.read_text(encoding="utf-8")
    record = json.loads(benchmark.OUTPUT.read_text(encoding="utf-8"))
    assert benchmark.with_section(document, benchmark.markdown(record)) == document


def test_section_is_replaced_and_the_rest_kept(benchmark):
    document = f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n"
    new = benchmark.with_section(document, "new")
    assert new == f"before\n{benchmark.BEGIN}\n\nnew\n\n{benchmark.END}\nafter\n"
    with pytest.raises(SystemExit, match="needs a line"):
        benchmark.with_section("no markers", "new")
