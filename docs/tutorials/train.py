# %% [markdown]
# # 2. From a trajectory to a model
#
# Training needs equilibrium frames and nothing else: no forces, no energies, no priors. This
# script takes an all-atom trajectory, keeps some atoms as beads, trains a small network for a
# short time, exports it as a model file, and looks at what it has learned.
#
# The trajectory here is a part of the test data, 200 frames of alanine dipeptide: enough to show
# all steps, far too little for a model. Take yours with `--trajectory` and `--topology`.

# %%
import argparse
import os
import sys
from pathlib import Path

import numpy as np

from openmm_scoremd import (
    CoarseGrainingMap,
    ScoreModelFile,
    coarse_grain_trajectory,
    export_torchscript,
    save_dataset,
)
from openmm_scoremd.data.coarse_graining import load_topology
from openmm_scoremd.geometry import distances
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.training.config import (
    DataConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from openmm_scoremd.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SHORT = bool(os.environ.get("SMOKE_TEST"))
TEST_DATA = ROOT / "tests" / "data"

parser = argparse.ArgumentParser(description="Train a small model on an all-atom trajectory.")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/train"))
parser.add_argument("--trajectory", type=Path, default=TEST_DATA / "alanine_dipeptide_200.dcd")
parser.add_argument("--topology", type=Path, default=TEST_DATA / "alanine_dipeptide.pdb")
parser.add_argument("--temperature", type=float, default=300.0, help="of the trajectory, in K")
parser.add_argument("--selection", help="of MDTraj, such as 'name CA'; else alanine dipeptide's")
options = parser.parse_args()
output: Path = options.output
if output.exists():
    sys.exit(f"{output} exists already; remove it, or give another --output")

# %% [markdown]
# ## Beads
#
# A mapping names the atoms that stay, and the bonds between them. Frames are centred, made whole
# if the box is periodic, and aligned; the dataset records the temperature, because the force of
# the model is that of this temperature. On the command line this step is `scoremd coarse-grain`.

# %%
atoms = load_topology(options.topology)
if options.selection is None:
    mapping = CoarseGrainingMap.from_preset(atoms, "alanine-dipeptide")
else:
    mapping = CoarseGrainingMap.from_selection(atoms, options.selection)
dataset = coarse_grain_trajectory(
    [options.trajectory], atoms, mapping, temperature=options.temperature
)
save_dataset(dataset, output / "beads.npz")
print(f"{dataset.n_frames} frames of {dataset.n_beads} beads: {' '.join(dataset.topology.names)}")
print(f"one unit of the network is {dataset.scale:.4f} nm")

# %% [markdown]
# ## Training
#
# Every entry has a default; the [user guide](../user_guide.md) lists them all. Here the network
# is small and sees the noise level (`noise_floor`), and half of the diffusion times are spread
# evenly over length scales (`balanced`): with both, bonds are resolved after thousands of steps
# instead of millions. The configuration is plain data and can come from a YAML file, too:
# `scoremd train --config FILE --output FOLDER`; see [the file of the shipped
# model](../../examples/methods/alanine_dipeptide_both_fast.yaml).
#
# Should training be stopped, `Trainer(config, folder).resume()` goes on from the last checkpoint.

# %%
config = TrainingConfig(
    title="a tutorial's model",
    data=DataConfig(str(output / "beads.npz"), held_out_fraction=0.1),
    network=GraphTransformerConfig(hidden_dim=32, layers=1, heads=4, head_dim=16, noise_floor=0.01),
    loss=LossConfig(time_distribution="balanced", weight_midpoint=0.5),
    optimizer=OptimizerConfig(learning_rate=3e-3, ema_decay=0.99),
    # Without the minute that torch.compile takes.
    hardware=HardwareConfig(accelerator="cpu", backend="eager"),
    epochs=3 if SHORT else 2000,
    batch_size=90 if SHORT else 180,
    log_steps=2 if SHORT else 400,
    seed=1,
)
trainer = Trainer(
    config,
    output / "training",
    progress=lambda row, total: print(f"step {row.step} of {total}: loss {row.loss:.4f}"),
)
weights = trainer.start()
print("weights:", weights.name)

# %% [markdown]
# ## One file for sampling and simulation
#
# The export fixes the diffusion time of the force at t = 1e-5, where the score is that of the
# data, puts everything that sampling and simulation need into one file, and stores test frames
# with their energies and forces. Loading repeats that test.

# %%
model = ScoreModelFile(export_torchscript(weights, output / "model.pt"))
print(f"{model.path.name}: {model.path.stat().st_size / 1e3:.0f} kB, SHA-256 {model.sha256[:16]}…")

# %% [markdown]
# ## What has it learned?
#
# Independent frames beside the data. The means should agree to about a picometer; the widths of
# the bonds are the finest feature and come last in training. Whether a model is good enough to
# simulate with is the subject of [the next tutorial](compare.py).

# %%
frames = model.sample(20 if SHORT else 500, seed=1, n_steps=10 if SHORT else 100)
names = model.bead_topology.names
bonds = np.array(model.bead_topology.bonds)
learned, data = distances(frames, bonds), distances(dataset.positions, bonds)
print("bond lengths in nm         samples            data")
for bond, (i, j) in enumerate(bonds):
    found, expected = learned[:, bond], data[:, bond]
    print(
        f"{i}-{j} ({names[i]}-{names[j]})".ljust(22),
        f"{found.mean():.4f} ± {found.std():.4f}    {expected.mean():.4f} ± {expected.std():.4f}",
    )

# %% [markdown]
# ## For a real model
#
# - Frames: tens of thousands that cover all states. Frames of the same trajectory that follow each
#   other closely add little.
# - Time: the shipped model took hours on one core; what it took is in
#   [the list of shipped models](../../torchscript_models/README.md).
# - Consistency: a plain diffusion model samples well and simulates badly. The Fokker-Planck
#   regulariser is what closes the gap; see [the fifth tutorial](mixtures.py).
