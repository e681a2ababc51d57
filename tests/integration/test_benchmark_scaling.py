"""The scaling benchmark runs and says what it measured; no timing is tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/scaling.py"


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("scaling")


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


def test_picture_of_the_stored_record(benchmark, tmp_path):
    record = json.loads(benchmark.OUTPUT.read_text(encoding="utf-8"))
    benchmark.plot_scaling(record["results"], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
