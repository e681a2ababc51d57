"""The energy benchmark finds what is known of harmonic motion; no drift of a model is tested."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_scoremd.model_file import ScoreModelFile

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/energy_drift.py"


@pytest.fixture
def benchmark(import_benchmark):
    return import_benchmark("energy_drift")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Output of a smoke run, and its record."""
    output = tmp_path_factory.mktemp("benchmark") / "new" / "energy_drift.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=output.parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text())


@pytest.mark.slow
def test_every_variant_and_step_has_a_row(smoke, benchmark):
    text, record = smoke
    rows = [(row["timestep_fs"], row["variant"]) for row in record["results"]]
    variants = ("plain, TorchForce", "ours, TorchForce", "ours, PythonForce", "compiled")
    assert rows == [(step, name) for step in benchmark.SMOKE.timesteps for name in variants]
    assert {"processor", "cores", "load_before"} <= set(record["hardware"])
    assert max(map(len, text.splitlines())) <= 100
    for row in record["results"]:
        # Single precision of energies near -1000 kJ/mol.
        assert 0.0 < row["rounding_kj_per_mol"] < 1e-3
        energy, modified = row["energy"], row["modified_energy"]
        assert modified["fluctuation_kj_per_mol"] < 0.2 * energy["fluctuation_kj_per_mol"]


@pytest.mark.slow
def test_fluctuation_falls_with_the_order_of_the_integrator(smoke, benchmark):
    _, record = smoke
    half, whole = ("energy", 2.0), ("modified_energy", 4.0)
    for name, order in (half, whole):
        for variant in range(len(benchmark.COMPARED)):
            small, large = record["results"][variant], record["results"][variant + 4]
            ratio = large[name]["fluctuation_kj_per_mol"] / small[name]["fluctuation_kj_per_mol"]
            assert ratio == pytest.approx(2.0**order, rel=0.4)


def harmonic(benchmark, make_toy, *, timestep):
    """Particles in a plane's harmonic well, in double precision, and what was seen of them."""
    toy = make_toy(n_beads=1, n_dims=2, dtype=torch.float64)
    model = ScoreModelFile(toy.path)
    rng = np.random.default_rng(0)
    start = benchmark.PhaseSpace(
        rng.normal(scale=0.03, size=(5, 1, 3)), rng.normal(scale=0.4, size=(5, 1, 3))
    )
    verlet = sys.modules["verlet"].verlet
    seen = verlet(model, "pythonforce", start, timestep=timestep, interval=3, samples=40)

    def energies(frames):
        return 1000.0 * (frames[:, 0, :2] ** 2).sum(axis=1)

    potential = energies(seen.positions.reshape(-1, 1, 3)).reshape(40, 5)
    square = 2000.0 / model.masses[0] * timestep**2  # (ω Δt)²
    return seen, energies, potential, square


def test_motion_in_a_harmonic_well_is_known(benchmark, make_toy):
    seen, _, potential, square = harmonic(benchmark, make_toy, timestep=0.01)
    # Potential energies of the force are those of the frames.
    np.testing.assert_allclose(seen.potential, potential.sum(axis=1), rtol=1e-12)
    # Leapfrog conserves m v²/2 + m ω² x²/2 (1 - ω² Δt²/4), with velocities of the same moment.
    conserved = seen.kinetic + potential * (1.0 - square / 4.0)
    assert conserved.std(axis=0).max() < 1e-10
    assert (seen.kinetic + potential).std(axis=0).min() > 1e-4


def test_modified_energy_in_a_harmonic_well_is_known(benchmark, make_toy):
    seen, energies, potential, square = harmonic(benchmark, make_toy, timestep=0.01)
    terms = benchmark.modified_terms(seen, potential, energies, timestep=0.01)
    in_plane = seen.velocities[..., :2]
    mass = 12.0
    expected = square * (mass * (in_plane**2).sum(axis=(2, 3)) / 12.0 - potential / 12.0)
    np.testing.assert_allclose(terms, expected, atol=1e-6)
    total = seen.kinetic + potential
    assert (total + terms).std(axis=0).max() < 0.05 * total.std(axis=0).min()


def test_line_is_fitted_to_every_replica(benchmark):
    times = np.linspace(0.0, 2.0, 400)
    slopes = np.array([1.0, 2.0, 6.0])
    noise = 0.1 * np.sin(60.0 * np.pi * times)[:, None]
    energies = times[:, None] * slopes + np.array([5.0, -3.0, 0.0]) + noise
    found = benchmark.conservation(times, energies)
    assert found.drift == pytest.approx(3.0, abs=0.01)
    assert found.drift_error == pytest.approx(np.std(slopes, ddof=1) / np.sqrt(3), rel=0.01)
    assert found.fluctuation == pytest.approx(0.1 / np.sqrt(2), rel=0.02)
    row = found.to_dict(5)
    assert row["drift_kj_per_mol_per_ns_per_bead"] == pytest.approx(1000.0 * found.drift / 5)
