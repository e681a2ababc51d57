"""The benchmark of the engine runs and adds up; no timing is tested."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/engine_overhead.py"


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("engine_overhead")


@pytest.mark.slow
def test_record(tmp_path, benchmark):
    output = tmp_path / "engine_overhead.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert {"processor", "cores", "load_before"} <= set(record["hardware"])
    rows = record["results"]
    assert [row["replicas"] for row in rows] == list(benchmark.SMOKE.replicas)
    for row in rows:
        assert row["steps"] >= benchmark.SMOKE.cycle
        assert row["us_per_step"] > 0.0
        assert row["share"] == pytest.approx(sum(row["shares"].values()) + row["checkpoint_share"])
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_cycle_has_every_kind_as_often_as_a_run(benchmark):
    settings = benchmark.Settings(interval=100)
    turns = benchmark.Turns(None, settings)
    looks = range(benchmark.CHECK_STEPS, settings.cycle + 1, benchmark.CHECK_STEPS)
    kinds = [turns.kind(step) for step in looks]
    counts = benchmark.count_of_kinds(settings)
    # Frames come with a look, and state data with a frame.
    seen = {kind: kinds.count(kind) for kind in counts}
    assert seen["state"] == counts["state"] == 1
    assert seen["frame"] + seen["state"] == counts["frame"]
    assert sum(seen.values()) == counts["look"]
    assert counts == {"look": 20, "frame": 10, "state": 1}


def test_added_time_is_counted_by_what_it_is_for(benchmark):
    settings = benchmark.Settings(interval=100)
    turns = benchmark.Turns(None, settings)
    turns.bare = {"look": [2.0, 2.0, 90.0], "frame": [2.0, 2.0], "state": [2.0]}
    turns.run = {"look": [3.0, 3.0, 70.0], "frame": [4.0, 4.0, 4.0], "state": [12.0]}
    step, added = benchmark.added_seconds(turns, settings)
    assert step == pytest.approx(2.0 / 50)
    expected = {"look": 20 * 1.0, "frame": 10 * 1.0, "state": 8.0}
    assert added == {kind: pytest.approx(value / 1000) for kind, value in expected.items()}


def test_run_and_bare_integrator_make_the_same_steps(benchmark, monkeypatch):
    calls = []
    monkeypatch.setattr(
        benchmark, "seconds_of", lambda _, steps: calls.append(steps) or 0.5 * steps
    )
    simulation = types.SimpleNamespace(integrator=None)
    turns = benchmark.Turns(
        types.SimpleNamespace(simulation=simulation), benchmark.Settings(interval=100)
    )
    for done in (1, 20, 50, 100):
        turns.progress(done, 1000, "")
    assert calls == [1, 19, 30, 50]
    assert turns.bare == {"look": [25.0], "frame": [25.0]}
    assert not turns.stop()
