"""The tutorials in their short form, as a reader would run them: from another folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.artifact.metadata import read_metadata
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.trajectories.reading import load_replicas

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"

pytestmark = pytest.mark.slow


def start(script, folder):
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        # Started from the repository root without an install, as in CI.
        "PYTHONPATH": str(ROOT),
        "SMOKE_TEST": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", str(TUTORIALS / script), "--output", "out"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


def run(script, folder):
    done = start(script, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_simulate(tmp_path):
    printed = run("simulate.py", tmp_path)
    frames = mdtraj.load(tmp_path / "out/trajectory.dcd", top=tmp_path / "out/topology.pdb")
    assert frames.xyz.shape == (4, 5, 3)
    assert frames.topology.n_bonds == 4
    assert "temperature: 300 K" in printed
    assert len(re.findall(r"^\d-\d \(.+\) +0\.1\d+ ± ", printed, re.M)) == 4

    # A second run must not mix with the first.
    again = start("simulate.py", tmp_path)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_train(tmp_path):
    printed = run("train.py", tmp_path)
    dataset = load_dataset(tmp_path / "out/beads.npz")
    assert dataset.positions.shape == (200, 5, 3)
    assert "step 6 of 6" in printed
    weights = load_weights(tmp_path / "out/training/weights.safetensors")
    assert read_metadata(tmp_path / "out/model.pt").scale == weights.description.scale
    assert "5 beads: C N CA C N" in printed


def test_compare(tmp_path):
    printed = run("compare.py", tmp_path)
    metrics = json.loads((tmp_path / "out/report/metrics.json").read_text())
    pairs = {(pair["first"], pair["second"]): pair["verdict"] for pair in metrics["pairs"]}
    assert set(pairs) == {("reference", "iid"), ("reference", "simulation"), ("iid", "simulation")}
    for (first, second), verdict in pairs.items():
        assert f"{second} and {first}: {verdict}, p = " in printed
    assert (tmp_path / "out/report/report.html").stat().st_size > 100_000


def test_replicas(tmp_path):
    printed = run("replicas.py", tmp_path)
    assert "stopped at step 20 of 40, 2 frames" in printed
    assert "ended at step 40, 4 frames" in printed
    # Stopped and resumed is the same as not stopped.
    assert "largest difference in nm: 0.0\n" in printed
    broken = json.loads((tmp_path / "out/reckless/trajectories.json").read_text())["breaks"]
    assert broken
    assert len(list((tmp_path / "out/reckless/failures").iterdir())) == len(broken)
    free, pulled = (load_replicas(tmp_path / "out" / name, n_beads=5) for name in ("md", "pulled"))
    assert free.shape == pulled.shape
    assert np.abs(free - pulled).max() > 1e-4


def test_mixtures(tmp_path):
    printed = run("mixtures.py", tmp_path)
    assert "error: experts: the intervals [0.3, 1.0] and [0.3, 1.0] overlap" in printed
    weights = load_weights(tmp_path / "out/mixture/weights.safetensors")
    experts = weights.description.experts
    assert [(e.t_min, e.t_max, e.network.output) for e in experts] == [
        (1e-5, 0.3, "conservative"),
        (0.3, 1.0, "direct"),
    ]
    # Late times of the mixture have no energy.
    (centred,) = re.findall(r"^mixture +centred +(.+)$", printed, re.M)
    assert centred.split()[-1] == "nan"
    assert len(re.findall(r"rank correlation -?[01]\.\d\d", printed)) == 2


def test_every_tutorial_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.name for path in TUTORIALS.glob("*.py")}
    assert scripts == set(re.findall(r'run\("(\w+\.py)", tmp_path\)', text))
    index = (TUTORIALS / "index.md").read_text(encoding="utf-8")
    assert scripts == set(re.findall(r"\]\((\w+\.py)\)", index))
