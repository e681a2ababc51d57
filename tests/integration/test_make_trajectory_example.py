"""The script that makes the all-atom trajectory: its parts, a short run, and kill -9."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.signal import resample

from openmm_scoremd.geometry import dihedrals

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/make_alanine_dipeptide_trajectory.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_alanine_dipeptide_trajectory", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def output(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    script.make_trajectory(folder, script.SMOKE)
    return folder


def start(folder, *options):
    # Started from the repository root without an install, as in CI.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), "--smoke", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def pieces(folder):
    return sorted((folder / "pieces").glob("*.npz"))


def test_short_run_leaves_a_trajectory_and_its_record(script, output):
    frames = mdtraj.load(output / "trajectory.dcd", top=str(output / "topology.pdb"))
    record = json.loads((output / "run.json").read_text())
    simulated = np.concatenate(
        [script.load_piece(path).frames for path in pieces(output) if "piece" in path.name]
    )
    assert frames.xyz.shape == (20, 22, 3)
    assert np.abs(frames.xyz.mean(axis=1)).max() < 1e-6
    # Every frame is one of those simulated, and they are not in the order of time.
    found = [int(np.abs(simulated - x).max(axis=(1, 2)).argmin()) for x in frames.xyz]
    assert np.abs(simulated[found] - frames.xyz).max() < 1e-6
    assert found != sorted(found)
    assert record["results"]["simulated_frames"] == len(simulated) == 30
    assert record["results"]["distinct_fraction"] == len(set(found)) / 20
    phi_positive = (dihedrals(frames.xyz, [[4, 6, 8, 14]]) > 0.0).mean()
    assert record["results"]["phi_above_zero"]["in_frames"] == pytest.approx(phi_positive)
    assert record["seeds"] == {"seed": 1}


def test_bias_energies_are_the_bias_at_phi(script, output):
    paths = pieces(output)
    rounds = [path for path in paths if "round" in path.name]
    with np.load(rounds[-1]) as content:
        bias = content["bias"]
    assert np.ptp(bias) > 1.0
    # Its Fourier series at ten times as many nodes, where a spline is exact enough.
    fine = resample(bias, 10 * len(bias))
    nodes = np.linspace(0.0, 2.0 * np.pi, len(fine) + 1)
    profile = CubicSpline(nodes, [*fine, fine[0]], bc_type="periodic")
    for path in set(paths) - set(rounds):
        piece = script.load_piece(path)
        phi = dihedrals(piece.frames, [[4, 6, 8, 14]])[:, 0]
        np.testing.assert_allclose(piece.bias_energies, profile(phi % (2.0 * np.pi)), atol=2e-4)


def test_pieces_go_on_where_the_one_before_stopped(script, output):
    paths = pieces(output)
    with np.load(paths[-1].with_name("round-002.npz")) as content:
        bias = content["bias"]
    first, second = (script.load_piece(path) for path in paths[:2])
    seed = 1000 * script.SMOKE.seed + script.SMOKE.n_rounds + 1
    again = script.simulate(
        (first.positions, first.velocities), bias, len(second.frames), script.SMOKE, seed=seed
    )
    np.testing.assert_array_equal(again.frames, second.frames)
    assert not np.array_equal(first.frames, second.frames)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_result(output, tmp_path):
    folder = tmp_path / "killed"
    process = start(folder)
    deadline = time.monotonic() + 120.0
    while not (folder / "pieces/piece-0001.npz").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in pieces(folder)}
    assert len(written) < len(pieces(output)), "killed too late to test anything"
    assert not (folder / "trajectory.dcd").exists()

    process = start(folder)
    printed, _ = process.communicate(timeout=120.0)
    assert process.returncode == 0, printed
    assert "20 frames" in printed
    assert written == {path: path.stat().st_mtime_ns for path in written}
    for whole, resumed in zip(pieces(output), pieces(folder), strict=True):
        with np.load(whole) as first, np.load(resumed) as second:
            assert all(np.array_equal(first[key], second[key]) for key in first.files)
    topology = str(output / "topology.pdb")
    whole, resumed = (
        mdtraj.load(path / "trajectory.dcd", top=topology).xyz for path in (output, folder)
    )
    np.testing.assert_array_equal(whole, resumed)


def test_other_settings_and_foreign_folders_are_refused(script, output, tmp_path):
    with pytest.raises(SystemExit, match="other settings"):
        script.begin(output, dataclasses.replace(script.SMOKE, seed=2))
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(SystemExit, match="other files"):
        script.begin(tmp_path, script.SMOKE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resampling_follows_the_weights(script):
    weights = np.array([0.5, 0.1, 0.25, 0.15])
    energies = script.KT * np.log(weights) + 7.0
    found, chosen = script.resample(energies, 1000, np.random.default_rng(0))
    np.testing.assert_allclose(found, weights)
    assert np.abs(np.bincount(chosen) - 1000 * weights).max() < 1.0
    assert not np.array_equal(chosen, np.sort(chosen))


def test_flattening_raises_the_bias_where_the_molecule_was(script, output):
    frames = np.concatenate([script.load_piece(path).frames for path in pieces(output)])
    phi = dihedrals(frames, [[4, 6, 8, 14]])[:, 0]
    bias = script.flatten(np.zeros(script.BIAS_POINTS), frames, script.SMOKE)
    nodes = 2.0 * np.pi / script.BIAS_POINTS * np.arange(script.BIAS_POINTS)
    highest = np.angle(np.exp(1j * nodes[bias.argmax()]))
    centre = np.angle(np.exp(1j * phi).mean())
    assert abs(np.angle(np.exp(1j * (highest - centre)))) < 0.5
    # Never visited: phi = 20 degrees, at most damping * kT * ln(1.05 / 0.05) below its mean.
    assert -8.0 < bias[4] < -1.0
    assert bias.mean() == pytest.approx(0.0, abs=1e-9)
