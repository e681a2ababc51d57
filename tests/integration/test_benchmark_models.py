"""The benchmarks of shipped models run, and say of frames that are known what they have to."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "torchscript_models/alanine_dipeptide_invariant.pt"
SECOND_RUN = ROOT / "benchmarks/data/alanine_dipeptide_second_run.npz"


def run(script, folder, *options):
    """Run a benchmark in its short form and return its record."""
    output = folder / "record.json"
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--smoke"]
    done = subprocess.run(
        [*command, *options, "--output", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.mark.slow
def test_noise_floor(tmp_path):
    record = run("noise_floor.py", tmp_path, f"ours={MODEL}")
    assert record["models"]["ours"]["lost_replicas"] == 0
    assert record["models"]["ours"]["iid"]["frames"] == 100
    # Two runs of one molecule, 50,000 frames each.
    assert 0.005 < record["floor"]["js"] < 0.02
    assert record["floor"]["bond_w1_pm"] < 0.1


def test_frames_that_are_the_reference_have_no_distance(import_benchmark):
    noise_floor = import_benchmark("noise_floor")
    second = noise_floor.load_dataset(SECOND_RUN)
    same = noise_floor.compare(second.positions, second.positions, second.topology)
    assert same == {"frames": 50_000, "js": 0.0, "bond_w1_pm": 0.0}
    longer = noise_floor.compare(second.positions, 1.001 * second.positions, second.topology)
    bonds = noise_floor.bond_lengths(second.positions, second.topology)
    assert longer["bond_w1_pm"] == pytest.approx(1000.0 * 0.001 * bonds.mean(), rel=1e-3)
    assert longer["js"] < 1e-4


def test_population_and_entries_of_the_basin(import_benchmark):
    noise_floor = import_benchmark("noise_floor")
    second = noise_floor.load_dataset(SECOND_RUN)
    inside = noise_floor.in_basin(second.positions, second.topology)
    within, without = second.positions[inside][0], second.positions[~inside][0]
    # Two replicas: one enters for the last quarter, one twice for a frame each.
    states = np.array([[0, 0, 0, 0, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0, 0, 0]], dtype=bool)
    trajectories = np.where(states[..., None, None], within, without)
    found = noise_floor.basin_of(trajectories, second.topology)
    assert found["entries"] == 3
    assert found["population"] == pytest.approx((2 / 4 + 0) / 2)
    assert found["quarters"] == [0.25, 0.25, 0.0, 0.5]


@pytest.mark.slow
def test_model_speed(tmp_path):
    record = run("model_speed.py", tmp_path, f"one={MODEL}", f"two={MODEL}")
    assert [(row["replicas"], row["model"]) for row in record["results"]] == [
        *((1, "one"), (1, "two"), (10, "one"), (10, "two"))
    ]
    assert all(row["replica_steps_per_s"] > 0.0 for row in record["results"])
