"""The example scripts in their short form, as somebody else would run them: from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.artifact.metadata import read_metadata
from openmm_scoremd.data.dataset import load_dataset
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.trajectories.reading import load_replicas

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt"


def run(script, folder, *options):
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        "SMOKE_TEST": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "80",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / script), *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of the results, and what was printed."""
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.relative_to(ROOT)} is not there")
    folder = tmp_path_factory.mktemp("demo")
    return folder / "demo_output", run("demo.py", folder)


@pytest.fixture(scope="module")
def mueller_brown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mueller_brown")
    return folder, run("mueller_brown.py", folder, "--output", "out")


class TestDemo:
    def test_all_files_are_there(self, demo):
        folder, _ = demo
        names = {path.name for path in folder.iterdir()}
        pictures = {"ramachandran.png", "dihedrals.png", "bonds.png"}
        topologies = {"topology.pdb", "topology.psf"}
        results = {"metrics.json", "report.html", "run.json"}
        assert names == pictures | topologies | results | {"iid.dcd", "replicas"}
        replicas = sorted(path.name for path in (folder / "replicas").iterdir())
        assert replicas == [f"replica_{i:04d}.dcd" for i in range(4)]

    def test_trajectories_start_at_the_independent_frames(self, demo):
        folder, _ = demo
        iid = mdtraj.load(folder / "iid.dcd", top=folder / "topology.pdb")
        assert iid.xyz.shape == (50, 5, 3)
        for number in range(4):
            path = folder / "replicas" / f"replica_{number:04d}.dcd"
            replica = mdtraj.load(path, top=folder / "topology.psf")
            assert replica.xyz.shape == (2, 5, 3)
            # After 20 steps of 2 fs a replica is still near its own start, and near no other's.
            moved = np.sqrt(((replica.xyz[0] - iid.xyz[:4]) ** 2).sum(axis=-1).mean(axis=-1))
            assert moved.argmin() == number

    def test_numbers_are_those_of_the_shipped_model(self, demo):
        folder, printed = demo
        record = json.loads((folder / "run.json").read_text())
        model = ScoreModelFile(SHIPPED)
        assert record["inputs"]["model"]["sha256"] == model.sha256
        metrics = json.loads((folder / "metrics.json").read_text())
        assert record["results"].items() <= metrics.items()
        assert [entry["name"] for entry in record["results"]["sets"]] == ["iid", "simulation"]
        assert model.sha256[:16] in printed
        assert "iid: 50 frames" in printed
        assert "simulation: 8 frames" in printed
        assert "replica-steps/s" in printed

    def test_output_fits_a_terminal(self, demo):
        _, printed = demo
        wide = [line for line in printed.splitlines() if len(line) > 80]
        # Lines with paths may be as long as these.
        assert all("demo_output" in line for line in wide), wide

    def test_again_into_the_same_folder_gives_the_same(self, demo):
        folder, _ = demo
        paths = [folder / "iid.dcd", *sorted((folder / "replicas").iterdir())]
        before = [load_replicas(path, n_beads=5) for path in paths]
        run("demo.py", folder.parent)
        for path, frames in zip(paths, before, strict=True):
            np.testing.assert_array_equal(load_replicas(path, n_beads=5), frames)


class TestMuellerBrown:
    def test_data_weights_and_model_belong_together(self, mueller_brown):
        folder = mueller_brown[0] / "out"
        dataset = load_dataset(folder / "data.npz")
        assert dataset.positions.shape == (2000, 1, 2)
        description = load_weights(folder / "training" / "weights.safetensors").description
        metadata = read_metadata(folder / "mueller_brown.pt")
        assert metadata.dataset_sha256 == description.dataset_sha256
        assert metadata.n_dims == 2
        assert metadata.scale == 1.0

    def test_metrics(self, mueller_brown):
        folder, printed = mueller_brown
        metrics = json.loads((folder / "out" / "metrics.json").read_text())
        for name in ("iid", "simulation", "noise floor"):
            assert set(metrics[name]) == {"js_divergence", "pmf_error"}
            assert name in printed
        # A network after one epoch is worse than independent draws, and better than nothing.
        floor, iid = (metrics[name]["js_divergence"] for name in ("noise floor", "iid"))
        assert 0.0 < floor < iid < np.log(2.0)

    def test_again_goes_on_from_what_is_there(self, mueller_brown):
        folder, _ = mueller_brown
        weights = folder / "out" / "training" / "weights.safetensors"
        before = weights.stat().st_mtime_ns
        run("mueller_brown.py", folder, "--output", "out")
        assert weights.stat().st_mtime_ns == before


def test_metadynamics(tmp_path):
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.relative_to(ROOT)} is not there")
    printed = run("metadynamics.py", tmp_path, "--output", "out")
    assert "unbiased replica: visited" in printed
    phi, free_energy = np.loadtxt(tmp_path / "out" / "free_energy.csv", delimiter=",").T
    assert (phi[0], phi[-1]) == (-180.0, 180.0)
    # Two hills of 1 kJ/mol or less, scaled by biasFactor / (biasFactor - 1).
    assert 0.5 < np.ptp(free_energy) <= 2.4


@pytest.mark.parametrize("levels", ["files", "context"])
def test_noise_level_exchange(tmp_path, levels):
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.relative_to(ROOT)} is not there")
    printed = run("noise_level_exchange.py", tmp_path, "--output", "out", "--levels", levels)
    assert "t = 0.02 and 0.1:" in printed
    phi = np.loadtxt(tmp_path / "out" / "phi.csv", delimiter=",")
    assert phi.shape == (3, 2)
    assert np.abs(phi).max() <= 180.0
    files = len(list((tmp_path / "out").glob("level_*.pt")))
    assert files == (3 if levels == "files" else 0)


def test_scaled_potentials(tmp_path):
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.relative_to(ROOT)} is not there")
    printed = run("scaled_potentials.py", tmp_path)
    assert "factor 0.6:" in printed
    assert "reweighted to 1:" in printed
