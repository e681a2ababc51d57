# %% [markdown]
# # 1. Simulate a shipped model
#
# A model file holds a molecule of beads, its potential, and a sampler. Here we load the shipped
# model of alanine dipeptide (five beads, C N CA C N), put its force into an ordinary OpenMM
# simulation, write a DCD file, and read it back with MDTraj.
#
# Everything is OpenMM's own: `System`, `LangevinMiddleIntegrator`, `Simulation`, reporters. Only
# the force comes from the file.

# %%
import argparse
import os
import sys
from pathlib import Path

import mdtraj
import numpy as np
from openmm import LangevinMiddleIntegrator, unit
from openmm.app import DCDReporter, Simulation, StateDataReporter

from openmm_scoremd import ScoreModelFile, load_dataset
from openmm_scoremd.geometry import distances
from openmm_scoremd.trajectories.bead_files import write_pdb

ROOT = Path(__file__).resolve().parents[2]
# The tests run a short form of this script.
SHORT = bool(os.environ.get("SMOKE_TEST"))
STEPS, INTERVAL = (40, 10) if SHORT else (5_000, 10)

parser = argparse.ArgumentParser(description="Simulate the shipped model of alanine dipeptide.")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/simulate"))
output: Path = parser.parse_args().output
if output.exists():
    sys.exit(f"{output} exists already; remove it, or give another --output")
output.mkdir(parents=True)

# %% [markdown]
# ## The file is checked before it is used
#
# `ScoreModelFile` verifies checksums and metadata, then loads the network, which must reproduce
# energies and forces that are stored in the file. With `sha256=` nothing of another file is run;
# see [Trust and safety](../safety.md).

# %%
model = ScoreModelFile(ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt")
print(model.metadata.title)
print("beads:", " ".join(model.bead_topology.names))
print("masses in dalton:", *np.round(model.masses, 1))
print(f"temperature: {model.temperature:g} K")

# %% [markdown]
# ## System, start frame, simulation
#
# The potential is a free energy at the temperature of the training data, so the thermostat gets
# that temperature. Its zero is arbitrary: only differences of energies mean anything. The start
# is an independent frame from the diffusion model: no structure has to be built or minimised.

# %%
system = model.create_system()
integrator = LangevinMiddleIntegrator(
    model.temperature * unit.kelvin, 1 / unit.picosecond, 2 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
simulation = Simulation(model.topology, system, integrator)
start = model.sample(1, seed=1, n_steps=10 if SHORT else None)[0]
simulation.context.setPositions(start)
simulation.context.setVelocitiesToTemperature(model.temperature * unit.kelvin, 1)

# %%
simulation.reporters.append(DCDReporter(str(output / "trajectory.dcd"), INTERVAL))
simulation.reporters.append(
    StateDataReporter(sys.stdout, STEPS // 4, time=True, potentialEnergy=True, speed=True)
)
simulation.step(STEPS)

# %% [markdown]
# ## Read it back
#
# The topology goes into a PDB file; any program that reads DCD can show the trajectory now, with
# bonds. (MDTraj's DCD reader prints a line of its own.)

# %%
write_pdb(model.bead_topology, start, output / "topology.pdb")
trajectory = mdtraj.load(output / "trajectory.dcd", top=output / "topology.pdb")
phi = mdtraj.compute_dihedrals(trajectory, [[0, 1, 2, 3]])[:, 0]
psi = mdtraj.compute_dihedrals(trajectory, [[1, 2, 3, 4]])[:, 0]
print(f"{trajectory.n_frames} frames of {trajectory.n_atoms} beads")
print(f"phi: {np.degrees(phi).min():.0f} to {np.degrees(phi).max():.0f} degrees")
print(f"psi: {np.degrees(psi).min():.0f} to {np.degrees(psi).max():.0f} degrees")

# %% [markdown]
# ## Is that right?
#
# Compare with the frames that the model was trained on. Bond lengths should agree in mean and
# width. Dihedral angles explore the same regions if the simulation is long enough, and ten
# picoseconds are not: [the third tutorial](compare.py) shows how to judge that with numbers, and
# [the fourth](replicas.py) how to simulate many replicas at once, which costs little more than
# one.

# %%
dataset = load_dataset(ROOT / "examples" / "data" / "alanine_dipeptide.npz")
names, bonds = model.bead_topology.names, np.array(model.bead_topology.bonds)
simulated = distances(trajectory.xyz, bonds)
reference = distances(dataset.positions, bonds)
print("bond lengths in nm         simulation         data")
for bond, (i, j) in enumerate(bonds):
    found, expected = simulated[:, bond], reference[:, bond]
    print(
        f"{i}-{j} ({names[i]}-{names[j]})".ljust(22),
        f"{found.mean():.4f} ± {found.std():.4f}    {expected.mean():.4f} ± {expected.std():.4f}",
    )
