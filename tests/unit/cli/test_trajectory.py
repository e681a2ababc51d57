"""``scoremd sample --trajectory``: what it writes, and what it refuses."""

import contextlib
import io
import json

import mdtraj
import numpy as np
import pytest

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.cli.main import main
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.sampling.langevin import TrajectorySettings, trajectory_timestep
from openmm_scoremd.trajectories.reading import load_replicas


@pytest.fixture
def sample(toy, tmp_path, monkeypatch):
    """Return a function that samples the toy into a folder and returns code and both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*options, output="chains"):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in ("sample", toy.path, output, *options)])
        return code, out.getvalue(), err.getvalue()

    return run


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_files_and_record(sample, toy, tmp_path):
    code, out, _ = sample(
        *("--trajectory", 5, "--chains", 3, "--interval", 4, "--stiffness", 25, "--seed", 6),
        *("--friction", 50, "--window", 8, "--time", 0.01),
    )
    assert code == 0
    folder = tmp_path / "chains"
    names = {path.name for path in folder.iterdir()}
    chains = {f"replica_{i:04d}.dcd" for i in range(3)}
    assert names == chains | {"topology.pdb", "topology.psf", "run.json"}

    model = ScoreModelFile(toy.path)
    settings = TrajectorySettings(t=0.01, step_size=0.01, steps_per_frame=4, window=8)
    expected = model.sample_trajectory(5, start=3, seed=6, settings=settings)
    found = load_replicas(folder, n_beads=4)
    np.testing.assert_allclose(found, expected.positions, atol=1e-6)
    with_mdtraj = mdtraj.load(folder / "replica_0001.dcd", top=folder / "topology.psf")
    np.testing.assert_allclose(with_mdtraj.xyz, expected.positions[1], atol=1e-6)
    stored = mdtraj.load(folder / "topology.pdb").xyz[0]
    np.testing.assert_allclose(stored, expected.positions[0, 0], atol=1e-4)

    timestep = trajectory_timestep(model.metadata, 0.01, friction=50.0)
    said = record(folder)
    assert said["seeds"] == {"sampling": 6}
    assert said["inputs"]["model"]["sha256"] == sha256_of_file(toy.path)
    assert said["arguments"] == {
        "trajectory": 5, "chains": 3, "interval": 4, "stiffness": 25.0, "time": 0.01, "window": 8,
        "temperature": 300.0, "friction": 50.0, "device": "cpu",
    }  # fmt: skip
    results = said["results"]
    assert results["timestep_ps"] == pytest.approx(timestep)
    assert results["frame_interval_ps"] == pytest.approx(4.0 * timestep)
    assert results["mass_dalton"] == 13.5
    assert results["stiffness"] == pytest.approx(25.0)
    assert results["diffusion_time"] == 0.01
    assert results["steps"] == 20
    assert results["score_calls"] == expected.score_calls < 20
    assert out.startswith(f"chains: 3 chains of 5 frames, {4.0 * timestep:.3g} ps apart at fric")
    assert len(out.splitlines()) == 1


def test_defaults(sample, tmp_path):
    code, out, _ = sample("--trajectory", 2)
    assert code == 0
    assert "10 chains of 2 frames" in out
    assert "at friction 1/ps, 1 steps per score call" in out
    assert load_replicas(tmp_path / "chains", n_beads=4).shape == (10, 2, 4, 3)
    results = record(tmp_path / "chains")["results"]
    assert results["step_size_times_curvature"] == pytest.approx(0.1)
    assert results["score_calls"] == results["steps"] == 200


def test_another_temperature_is_explained(sample, tmp_path, caplog):
    code, _, _ = sample("--trajectory", 2, "--temperature", 330)
    assert code == 0
    assert "330 K, the model 300 K" in caplog.text
    assert record(tmp_path / "chains")["arguments"]["temperature"] == 330.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chains", 3, "--window", 4), "--chains, --window: of trajectories; give --trajectory"),
        (("--trajectory", 3, "--frames", 5), "--frames: of independent frames; leave out"),
        (("--trajectory", 3, "--solver", "dpm-solver"), "--solver: of independent frames"),
        (("--trajectory", 0), "0 is out of range"),
        (("--trajectory", 3, "--window", 0), "0 is out of range"),
        (("--trajectory", 3, "--stiffness", 0.4), "steps are stable below 2"),
        (("--trajectory", 3, "--stiffness", -1), "stiffness is -1.0"),
        (("--trajectory", 3, "--time", 2), "t is 2.0; the score of this model"),
        (("--trajectory", 3, "--friction", 0), "friction is 0.0"),
        (("--trajectory", 3, "--temperature", 0), "temperature is 0.0 K"),
        (("--trajectori", 3), "did you mean --trajectory?"),
    ],
)
def test_refused(sample, tmp_path, options, message):
    before = {*tmp_path.iterdir()}
    code, out, err = sample(*options)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert {*tmp_path.iterdir()} == before
