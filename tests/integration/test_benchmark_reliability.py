"""The benchmark that kills runs, with few kills."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide.pt"


def run(folder, *options):
    command = [sys.executable, str(ROOT / "benchmarks" / "reliability.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.exists(), reason="the shipped model is not there")
def test_both_parts(tmp_path):
    kills = ("--kills", "2", "--steps", "300", "--replicas", "2", "--window", "1")
    found = run(tmp_path, *kills, "--output", "out.json")["kills"]
    assert (found["kills"], found["all_bitwise"], found["all_complete"]) == (2, True, True)
    assert len(found["moments"]) == 2

    moved = ("--independence", "--replicas", "5", "--steps", "20", "--output", "out.json")
    for entry in run(tmp_path, *moved)["independence"]["largest_difference"]:
        assert entry["others_nm"] == 0.0
        assert entry["moved_replica_nm"] > 1e-4

    long = ("--long", "--replicas", "5", "--folder", "long", "--output", "out.json")
    half = run(tmp_path, *long, "--steps", "5000")["long"]
    assert (half["replica_steps"], half["finished"]) == (25_000, True)
    both = run(tmp_path, *long, "--steps", "10000")
    assert both["kills"] == found
    assert both["long"]["replica_steps"] == 50_000
    assert both["long"]["nan_frames_written"] == 0
    assert both["long"]["temperature_error"] == pytest.approx(0.0, abs=0.3)
    assert both["long"]["processes"] == 2
    assert both["long"]["memory_largest_MB"] > 50.0
    assert run(tmp_path, *long, "--summary")["long"]["replica_steps"] == 50_000


def test_documentation_shows_the_stored_record():
    folder = ROOT / "benchmarks"
    specification = importlib.util.spec_from_file_location("page", folder / "reliability_page.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    record = json.loads((folder / "results" / "reliability.json").read_text())
    assert script.PAGE.read_text() == script.page(record)
    assert ("long" in record) == script.FIGURE.exists()
