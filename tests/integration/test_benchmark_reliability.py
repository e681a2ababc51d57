"""The benchmark that kills runs, with few kills."""

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
    for platform in found["independence"]["largest_difference"].values():
        assert platform["others_nm"] == 0.0
        assert platform["moved_replica_nm"] > 1e-3

    long = ("--long", "--replicas", "5", "--folder", "long", "--output", "out.json")
    run(tmp_path, *long, "--steps", "5000")
    both = run(tmp_path, *long, "--steps", "10000")
    assert both["kills"] == found
    assert both["long"]["replica_steps"] == 50_000
    assert both["long"]["nan_frames_written"] == 0
    assert both["long"]["temperature_error"] == pytest.approx(0.0, abs=0.3)
    assert both["long"]["memory"]["megabytes_largest"] > 50.0
    assert (tmp_path / "long" / "memory.png").exists()
