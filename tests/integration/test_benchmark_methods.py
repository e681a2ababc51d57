"""The benchmarks of the methods run end to end, and the results page is what they recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *options, env, **arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, options)],
        capture_output=True,
        text=True,
        env=env,
        timeout=600,
        check=False,
        **arguments,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def smoke():
    return {**os.environ, "SMOKE_TEST": "1"}


@pytest.mark.slow
def test_mueller_brown(tmp_path, smoke):
    methods = ["both", "both-fast"]
    options = ("--output", tmp_path, "--seeds", 0, "--methods", *methods)
    run("mueller_brown.py", *options, env=smoke)
    for name in ("ground-truth", *methods):
        metrics = json.loads((tmp_path / f"{name}-0/metrics.json").read_text())
        assert {"iid", "simulation"} <= metrics.keys()
    # The true density is there, whatever little the networks have learned.
    truth = json.loads((tmp_path / "ground-truth-0/metrics.json").read_text())
    assert truth["iid"]["js_fixed_range"] < 0.3


def test_results_page_is_what_was_recorded(tmp_path, import_benchmark):
    page = ROOT / "docs/results.md"
    made = tmp_path / "results.md"
    import_benchmark("write_results").write_page(made)
    assert made.read_text() == page.read_text()
