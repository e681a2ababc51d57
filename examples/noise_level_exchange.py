# %% [markdown]
# # Replica exchange over noise levels
# A diffusion model knows the density of its data at every noise level. With much noise the basins
# of a molecule merge; with none there are barriers that simulations rarely cross. Here simulations
# at several diffusion times exchange frames with their neighbours, so that what crosses where it is
# easy comes down to the level without noise. The Metropolis test of every exchange is exact: the
# first level keeps the distribution of its own potential.
#
# A level is either a model file that was exported at its diffusion time, which is folded at that
# time and fast (`--levels files`), or the model's own file with the diffusion time as a parameter
# of the Context (`--levels context`), which needs no weights and is slower.

# %%
import argparse
import os
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from openmm_scoremd import ScoreModelFile, export_torchscript
from openmm_scoremd.geometry import dihedrals
from openmm_scoremd.simulation.exchange import ReplicaExchange
from openmm_scoremd.simulation.replicas import ReplicaSimulation

MODELS = Path(__file__).resolve().parents[1] / "torchscript_models"
SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
TIMES = (1e-5, 0.02, 0.1) if SMOKE_TEST else (1e-5, 0.004, 0.01, 0.02, 0.035, 0.055, 0.08, 0.1)
LADDERS, SWEEPS, STEPS = (2, 3, 5) if SMOKE_TEST else (10, 500, 50)
PHI = (0, 1, 2, 3)  # C N CA C
BOND_NM = 0.003  # spread of a bond without noise

parser = argparse.ArgumentParser(description="Replica exchange over noise levels.")
parser.add_argument("--output", type=Path, default=Path("runs/noise_level_exchange"))
parser.add_argument("--levels", choices=("files", "context"), default="files")
parser.add_argument("--sweeps", type=int, default=SWEEPS)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
options.output.mkdir(parents=True, exist_ok=True)
console = Console()
model = ScoreModelFile(MODELS / "alanine_dipeptide.pt")

# %% [markdown]
# ## Levels
# Noise makes bonds soft, so that time steps may grow with the spread of a bond.


# %%
def noise(t: float) -> float:
    """Return the noise of a diffusion time in nm, for data that are not shrunk."""
    schedule, time = model.metadata.schedule, torch.tensor(t, dtype=torch.float64)
    return float(model.metadata.scale * schedule.sigma(time) / schedule.alpha(time))


def level(t: float, seed: int) -> ReplicaSimulation:
    """Return the simulation of one level, not yet started."""
    timestep = 0.002 * min(4.0, np.hypot(noise(t), BOND_NM) / BOND_NM)
    if options.levels == "context":
        return ReplicaSimulation(
            model, replicas=LADDERS, seed=seed, timestep=timestep, diffusion_time=t
        )
    path = export_torchscript(
        MODELS / "alanine_dipeptide.safetensors", options.output / f"level_{seed}.pt", t=t
    )
    return ReplicaSimulation(
        ScoreModelFile(path), replicas=LADDERS, seed=seed, timestep=timestep, backend="kernel"
    )


levels = [level(t, seed) for seed, t in enumerate(TIMES)]
start = model.sample(LADDERS, seed=options.seed)
for simulation in levels:
    simulation.set_positions(start)
exchange = ReplicaExchange(levels, seed=options.seed)

# %% [markdown]
# ## Simulate and exchange
# The first sweeps bring every level to its own distribution and are left out.

# %%
angles = []
for sweep in track(range(options.sweeps), description="exchanging", console=console):
    exchange.run(1, steps=STEPS)
    if sweep >= options.sweeps // 5:
        angles.append(dihedrals(levels[0].positions, [PHI])[:, 0])
phi = np.array(angles)  # (sweeps, ladders)
np.savetxt(options.output / "phi.csv", np.degrees(phi), delimiter=",", fmt="%.1f")
for index, rate in enumerate(exchange.acceptance):
    console.print(f"t = {TIMES[index]:g} and {TIMES[index + 1]:g}: {rate:.0%} exchanged")
console.print(f"{exchange.arrivals} frames came from the last level to the first")
changes = int(((phi[1:] > 0.0) != (phi[:-1] > 0.0)).sum())
per_ladder = (phi > 0.0).mean(axis=0)
error = per_ladder.std() / np.sqrt(LADDERS)
console.print(f"φ > 0: {per_ladder.mean():.3f} ± {error:.3f}, {changes} changes of sign")
