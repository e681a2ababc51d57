# %% [markdown]
# # Scaled potentials and reweighting
# With a potential that is multiplied by less than 1, barriers are lower and a simulation crosses
# them more often. Frames of several such runs, weighted by MBAR (pymbar; `pip install
# 'openmm-scoremd[reweighting]'`), give averages in the model's own potential.
#
# A coarse-grained potential is a free energy of its own temperature. The molecule at another
# temperature has another one, so a scaled run says nothing about that temperature: only what is
# reweighted to a factor of 1 has a meaning.

# %%
import argparse
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from openmm_scoremd import ScoreModelFile
from openmm_scoremd.analysis.statistics.reweighting import independent_frames, reweight
from openmm_scoremd.geometry import dihedrals
from openmm_scoremd.simulation.replicas import ReplicaSimulation

MODELS = Path(__file__).resolve().parents[1] / "torchscript_models"
SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
SCALES = (1.0, 0.8, 0.6)
REPLICAS, FRAMES, INTERVAL = (2, 20, 5) if SMOKE_TEST else (10, 500, 100)
EQUILIBRATION = 20 if SMOKE_TEST else 5000  # time steps
PHI = (0, 1, 2, 3)  # C N CA C

parser = argparse.ArgumentParser(description="Simulate scaled potentials and reweight.")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
console = Console()
model = ScoreModelFile(MODELS / "alanine_dipeptide_invariant.pt")

# %% [markdown]
# ## One simulation, whose factor is a parameter of the Context
# The factor can change at any time. Energies are the model's own, without the factor.

# %%
simulation = ReplicaSimulation(
    model, replicas=REPLICAS, seed=options.seed, backend="kernel", potential_factor=SCALES[0]
)
simulation.set_positions(model.sample(REPLICAS, seed=options.seed))
energies, angles = [], []
for scale in SCALES:
    simulation.potential_factor = scale
    simulation.step(EQUILIBRATION)
    frames = []
    for _ in track(range(FRAMES), description=f"factor {scale:g}", console=console):
        simulation.step(INTERVAL)
        frames.append(simulation.positions)
    chains = np.array(frames).swapaxes(0, 1)  # (replicas, frames, beads, 3)
    of_frames = [model.potential_energy(chain) for chain in chains]
    # Errors are right for independent frames only: one chain after another is thinned.
    kept = [independent_frames(energy) for energy in of_frames]
    energies.append(np.concatenate([e[k] for e, k in zip(of_frames, kept, strict=True)]))
    thinned = np.concatenate([chain[k] for chain, k in zip(chains, kept, strict=True)])
    angles.append(dihedrals(thinned, [PHI])[:, 0])

# %% [markdown]
# ## Averages at a factor of 1

# %%
combined = reweight(energies, SCALES, temperature=model.temperature)
for scale, run, phi, value, error in zip(
    SCALES, energies, angles, combined.free_energies, combined.errors, strict=True
):
    console.print(
        f"factor {scale:g}: {len(run)} frames, {np.mean(phi > 0.0):.1%} with φ > 0, "
        f"free energy {value:.2f} ± {error:.2f} kT"
    )
share, error = combined.average(np.concatenate(angles) > 0.0)
console.print(f"reweighted to 1: {share:.1%} ± {error:.1%} with φ > 0")
console.print(f"worth {combined.effective_frames:.0f} frames of a run at 1")
