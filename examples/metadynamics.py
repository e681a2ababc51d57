# %% [markdown]
# # Metadynamics on a learned force
# A learned force is an ordinary OpenMM force, so OpenMM's biases work with it. Here all replicas
# get a weak spring between their ends, and the first of two gets a metadynamics bias along φ. Every
# force has to be there before the Context is made: `prepare_system` is the place. A PLUMED bias
# (`openmmplumed.PlumedForce`, from conda) is added in the same way; PLUMED counts atoms from 1.

# %%
import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
import openmm.app as app
from rich.console import Console
from rich.progress import track

from openmm_scoremd import ScoreModelFile
from openmm_scoremd.geometry import dihedrals
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.simulation.replicas import ReplicaSimulation

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt"
SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
STEPS = 100 if SMOKE_TEST else 50_000
INTERVAL = 50
PHI = (0, 1, 2, 3)  # C N CA C

parser = argparse.ArgumentParser(description="Metadynamics along the φ of alanine dipeptide.")
parser.add_argument("--output", type=Path, default=Path("runs/metadynamics"))
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
console = Console()
model = ScoreModelFile(MODEL)

# %% [markdown]
# ## Forces for all replicas, and a bias for one

# %%
spring = openmm.HarmonicBondForce()
spring.addBond(0, 4, 0.5, 20.0)  # beads of one molecule; 0.5 nm, 20 kJ/mol/nm²
biases: list[app.Metadynamics] = []


def prepare_system(system: openmm.System, particles: Sequence[range]) -> None:
    """Add the spring to every replica and the bias to the first."""
    replicated([spring])(system, particles)
    phi = openmm.CustomTorsionForce("theta")
    phi.addTorsion(*(particles[0][bead] for bead in PHI), [])
    variable = app.BiasVariable(phi, -np.pi, np.pi, 0.35, periodic=True, gridWidth=90)
    bias = app.Metadynamics(
        system, [variable], model.temperature, biasFactor=6.0, height=1.0, frequency=INTERVAL
    )
    biases.append(bias)


simulation = ReplicaSimulation(model, replicas=2, seed=options.seed, prepare_system=prepare_system)
simulation.set_positions(model.sample(2, seed=options.seed))

# %% [markdown]
# ## Simulate, adding a hill every 50 steps

# %%
angles = []
for _ in track(range(STEPS // INTERVAL), description="metadynamics"):
    biases[0].step(simulation.simulation, INTERVAL)
    angles.append(dihedrals(simulation.positions, [PHI])[:, 0])
phi_of_replicas = np.degrees(np.array(angles))  # (frames, 2)
options.output.mkdir(parents=True, exist_ok=True)
free_energy = np.asarray(biases[0].getFreeEnergy()._value)
grid = np.linspace(-180.0, 180.0, len(free_energy))
table = np.column_stack([grid, free_energy - free_energy.min()])
np.savetxt(options.output / "free_energy.csv", table, delimiter=",", header="phi,kJ/mol")
for name, column in zip(("biased", "unbiased"), phi_of_replicas.T, strict=True):
    share = np.histogram(column, bins=36, range=(-180.0, 180.0))[0].astype(bool).mean()
    console.print(f"{name} replica: visited {share:.0%} of φ")
console.print(f"free energy along φ: {options.output / 'free_energy.csv'}")
