"""From an all-atom trajectory to a simulation in OpenMM, in Python, as the README shows it."""

import re
import runpy
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import LangevinMiddleIntegrator
from openmm.app import DCDReporter, Simulation
from openmm.unit import femtosecond, kelvin, kilojoule_per_mole, nanometer, picosecond

from openmm_scoremd import (
    CoarseGrainingMap,
    ScoreModelFile,
    coarse_grain_trajectory,
    export_torchscript,
    load_dataset,
    save_dataset,
)
from openmm_scoremd.data.coarse_graining import load_topology
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training.config import (
    DataConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from openmm_scoremd.training.trainer import Trainer
from openmm_scoremd.trajectories.bead_files import write_pdb

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHIPPED = ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt"


def test_from_trajectory_to_simulation(tmp_path):
    # All-atom trajectory to beads.
    atoms = load_topology(DATA / "alanine_dipeptide.pdb")
    mapping = CoarseGrainingMap.from_preset(atoms, "alanine-dipeptide")
    trajectory = DATA / "alanine_dipeptide_200.dcd"
    dataset = coarse_grain_trajectory(trajectory, atoms, mapping, temperature=300 * kelvin)
    save_dataset(dataset, tmp_path / "beads.npz")
    assert load_dataset(tmp_path / "beads.npz").n_frames == 200

    # Beads to weights.
    config = TrainingConfig(
        data=DataConfig(str(tmp_path / "beads.npz")),
        network=GraphTransformerConfig(
            hidden_dim=16, layers=1, heads=2, head_dim=8, noise_floor=0.05
        ),
        loss=LossConfig(time_distribution="balanced", weight_midpoint=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-2, ema_decay=0.9),
        hardware=HardwareConfig(accelerator="cpu", backend="eager"),
        epochs=10,
        batch_size=32,
    )
    weights = Trainer(config, tmp_path / "run").start()

    # Weights to a model file that gives the energy of the network.
    model = ScoreModelFile(export_torchscript(weights, tmp_path / "model.pt"))
    assert model.temperature == 300.0
    assert model.metadata.scale == pytest.approx(dataset.scale)
    np.testing.assert_array_equal(model.masses, dataset.topology.masses)
    frames = dataset.positions[:5].astype(np.float64)
    forces, expected = model.forces(frames), forces_of_network(weights, frames, model)
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(forces, expected, rtol=0.0, atol=1e-4 * np.abs(expected).max())

    # Model file to a trajectory.
    system = model.create_system(replicas=1)
    integrator = LangevinMiddleIntegrator(300 * kelvin, 1 / picosecond, 0.5 * femtosecond)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = Simulation(model.topology, system, integrator, platform)
    simulation.context.setPositions(dataset.positions[0])
    state = simulation.context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(kilojoule_per_mole)
    assert energy == pytest.approx(float(model.potential_energy(frames[0])), rel=1e-5)
    found = state.getForces(asNumpy=True).value_in_unit(kilojoule_per_mole / nanometer)
    np.testing.assert_allclose(found, forces[0], rtol=1e-4, atol=1e-4 * np.abs(forces).max())
    simulation.reporters.append(DCDReporter(str(tmp_path / "traj.dcd"), 5))
    simulation.step(20)

    # What others read.
    write_pdb(model.bead_topology, dataset.positions[0], tmp_path / "beads.pdb")
    read = mdtraj.load(tmp_path / "traj.dcd", top=tmp_path / "beads.pdb")
    assert read.xyz.shape == (4, 5, 3)
    assert [atom.name for atom in read.topology.atoms] == ["C", "N", "CA", "C", "N"]
    last = simulation.context.getState(positions=True).getPositions(asNumpy=True)
    np.testing.assert_allclose(read.xyz[-1], last.value_in_unit(nanometer), atol=1e-5)
    assert np.isfinite(read.xyz).all()
    assert np.abs(read.xyz[-1] - dataset.positions[0]).max() > 1e-4


def forces_of_network(weights, frames, model):
    """F = kT s(x, t) / scale, from the network in float64 that was not exported."""
    t = torch.full((len(frames),), model.metadata.t, dtype=torch.float64)
    x = torch.from_numpy(frames / model.metadata.scale)
    score = load_weights(weights).model.double().score(x, t).detach().numpy()
    return 8.31446261815324e-3 * model.temperature / model.metadata.scale * score


def readme_block():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return block


def test_readme_block_is_short():
    assert len([line for line in readme_block().splitlines() if line.strip()]) <= 15


def test_readme_block_runs(tmp_path, monkeypatch):
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.relative_to(ROOT)} is not there")
    block = readme_block()
    shorter = block.replace("step(10_000)", "step(20)").replace('"traj.dcd", 500', '"traj.dcd", 5')
    assert shorter.count("step(20)") == shorter.count('"traj.dcd", 5)') == 1
    monkeypatch.chdir(tmp_path)
    Path("torchscript_models").symlink_to(SHIPPED.parent)
    Path("block.py").write_text(shorter)
    names = runpy.run_path("block.py")
    model = names["model"]
    write_pdb(model.bead_topology, model.metadata.self_test.positions[0], "beads.pdb")
    frames = mdtraj.load("traj.dcd", top="beads.pdb")
    assert frames.xyz.shape == (4, 5, 3)
    assert names["simulation"].currentStep == 20
    # Still a molecule: no bond has left the range of lengths by half.
    lengths = mdtraj.compute_distances(frames, [list(bond) for bond in model.bead_topology.bonds])
    low, high = np.array(model.metadata.bond_ranges).T
    assert (0.5 * low < lengths).all()
    assert (lengths < 1.5 * high).all()
