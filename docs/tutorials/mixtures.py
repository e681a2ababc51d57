# %% [markdown]
# # 5. Mixtures, the regulariser, and trust
#
# Why a diffusion model may sample well and simulate badly, what the Fokker-Planck regulariser
# does about it, and how to see where a network contradicts itself. On the Müller-Brown potential,
# where the true force is known, so that nothing has to be believed. [Theory](../theory.md) has
# the formulas.

# %%
import argparse
import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from openmm_scoremd import ScoreModelFile, export_torchscript, save_dataset
from openmm_scoremd.data.toy import (
    mueller_brown_energy,
    mueller_brown_force,
    sample_mueller_brown,
)
from openmm_scoremd.errors import ConfigurationError
from openmm_scoremd.evaluation.fokker_planck import error_table, fokker_planck_error, frame_errors
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.models.weights import load_weights
from openmm_scoremd.training.config import (
    DataConfig,
    ExpertConfig,
    FokkerPlanckConfig,
    HardwareConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from openmm_scoremd.training.experts import train_mixture
from openmm_scoremd.training.trainer import Trainer
from openmm_scoremd.units import thermal_energy

SHORT = bool(os.environ.get("SMOKE_TEST"))
FRAMES, EPOCHS, BATCH = (1_024, 1, 256) if SHORT else (20_480, 50, 512)

parser = argparse.ArgumentParser(description="Mixtures, the regulariser, and trust.")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/mixtures"))
output: Path = parser.parse_args().output
if output.exists():
    sys.exit(f"{output} exists already; remove it, or give another --output")

# %% [markdown]
# ## Two networks that differ in one entry
#
# The same network on the same data: once with denoising score matching alone, once with the
# centred Fokker-Planck residual on a quarter of every batch. A minute of training makes no good
# model; the difference shows all the same.

# %%
dataset = sample_mueller_brown(FRAMES, seed=0)
save_dataset(dataset, output / "data.npz")
plain = TrainingConfig(
    title="Müller-Brown, plain",
    data=DataConfig(
        str(output / "data.npz"), held_out_fraction=0.0, augmentation="none", scale=1.0
    ),
    network=MLPConfig(hidden_dims=(64, 64, 64), noise_floor=0.05),
    loss=LossConfig(time_distribution="balanced", weight_midpoint=0.5),
    optimizer=OptimizerConfig(learning_rate=3e-3, ema_decay=0.99),
    hardware=HardwareConfig(accelerator="cpu", backend="eager"),
    epochs=EPOCHS,
    batch_size=BATCH,
    log_steps=100_000,
)
regulariser = FokkerPlanckConfig(alpha=1.0, estimator="centred", fraction=0.25, probe_sigma=1e-3)
regularised = dataclasses.replace(
    plain, title="Müller-Brown, regularised", fokker_planck=regulariser
)
weights = {
    "plain": Trainer(plain, output / "plain").start(),
    "regularised": Trainer(regularised, output / "regularised").start(),
}
print("trained:", ", ".join(weights))

# %% [markdown]
# ## A mixture
#
# Only early diffusion times need an energy and the regulariser. Here late times are left to a
# network that predicts the score directly, which is cheaper. Every expert is an ordinary training
# run in a folder of its own; each diffusion time has exactly one.

# %%
mixture = TrainingConfig(
    title="Müller-Brown, mixture",
    data=plain.data,
    optimizer=plain.optimizer,
    hardware=plain.hardware,
    batch_size=BATCH,
    log_steps=plain.log_steps,
    experts=(
        ExpertConfig(
            "late",
            0.3,
            1.0,
            network=MLPConfig(hidden_dims=(48, 48), output="direct", noise_floor=0.05, t_min=0.3),
            loss=LossConfig(
                t_min=0.3,
                time_distribution="balanced",
                weight_start=0.3,
                weight_midpoint=0.65,
            ),
            epochs=EPOCHS,
        ),
        ExpertConfig(
            "early",
            1e-5,
            0.3,
            network=dataclasses.replace(plain.network, t_max=0.3),
            loss=LossConfig(
                t_max=0.3, time_distribution="balanced", weight_end=0.3, weight_midpoint=0.15
            ),
            fokker_planck=regulariser,
            epochs=EPOCHS,
        ),
    ),
)
weights["mixture"] = train_mixture(mixture, output / "mixture")
print("trained: mixture of", ", ".join(expert.name for expert in mixture.experts))

# %% [markdown]
# Experts must touch and not overlap, and what is regularised must have an energy. Anything else
# is an error before training begins:

# %%
try:
    dataclasses.replace(mixture, experts=(mixture.experts[0],) * 2)
except ConfigurationError as error:
    print(f"error: {error}")

# %% [markdown]
# ## How far from the Fokker-Planck equation?
#
# The residual at noised data, over diffusion time, with exact derivatives. The plain error counts
# a constant of the energy that changes with time, which no score can feel; the centred one does
# not, and it is the one to look at. Times that a direct network serves have none (nan). Early
# times, on the left, are those of the force; there the regularised networks should have the
# smaller error.

# %%
trained = {name: load_weights(path) for name, path in weights.items()}
curves = {
    name: fokker_planck_error(
        model,
        dataset.positions,
        times=np.geomspace(1e-4, 1.0, 3 if SHORT else 9),
        n_frames=32 if SHORT else 256,
    )
    for name, model in trained.items()
}
print(error_table(curves))

# %% [markdown]
# ## Does it matter for a simulation?
#
# What a simulation samples is decided by the potential: its error as a whole, and between the
# minima, where an error of 1 kT changes a population by a factor of 2.7. Denoising score matching
# sees only the slope at every point, and small errors of the slope add up on the way from one
# minimum to another. That is what the regulariser corrects, by tying each diffusion time to later
# ones, at which there are no barriers. The slope at single points, dominated by steep walls, need
# not gain.

# %%
models = {
    name: ScoreModelFile(export_torchscript(path, output / f"{name}.pt"))
    for name, path in weights.items()
}
MINIMA = np.array([(-0.558, 1.442), (-0.050, 0.467), (0.623, 0.028)])
points = dataset.positions[: 200 if SHORT else 1_000, 0].astype(np.float64)


def in_space(plane: np.ndarray) -> np.ndarray:
    """Return points (n, 2) of the plane as frames (n, 1, 3) of one bead."""
    return np.pad(plane, ((0, 0), (0, 1)))[:, None]


def potential_errors(model: ScoreModelFile, plane: np.ndarray) -> np.ndarray:
    """Return the error of the potential at points (n, 2) in kT, up to a constant."""
    energies = model.potential_energy(in_space(plane)) - mueller_brown_energy(plane)
    return energies / thermal_energy(model.temperature)


def force_errors(model: ScoreModelFile, plane: np.ndarray) -> np.ndarray:
    """Return the size of the error of the force at points (n, 2) in kJ/mol/nm."""
    return np.linalg.norm(
        model.forces(in_space(plane))[:, 0, :2] - mueller_brown_force(plane), axis=1
    )


for name, model in models.items():
    first, second, third = potential_errors(model, MINIMA)
    print(
        f"{name}:\n"
        f"  potential: {potential_errors(model, points).std():.2f} kT over data, "
        f"{second - first:+.2f} and {third - first:+.2f} kT between minima\n"
        f"  force: {np.sqrt((force_errors(model, points) ** 2).mean()):.0f} kJ/mol/nm over data"
    )

# %% [markdown]
# ## Where not to trust a model
#
# `frame_errors` gives the centred error of single frames; `scoremd fokker-planck` writes it for
# frames of a dataset. Points on a grid show what to expect of it. Far from data, a network's
# energy is whatever extrapolation makes of it; there both errors should be large. Among data, the
# rank correlation of the two says how good a guide the first is to the second.

# %%
axis_x, axis_y = np.linspace(-1.8, 1.2, 15), np.linspace(-0.6, 2.1, 15)
grid = np.array([(x, y) for x in axis_x for y in axis_y])
nearest = np.array([np.linalg.norm(dataset.positions[:, 0] - p, axis=1).min() for p in grid])
sets = {"data": points[:200], "no data within 0.3 nm": grid[nearest > 0.3]}
name = "regularised"
print(f"{name}:")
for where, some in sets.items():
    own = frame_errors(trained[name], np.concatenate([points[:200], some])[:, None], t=1e-3)[200:]
    true = force_errors(models[name], some)
    agreement = stats.spearmanr(own, true).statistic
    print(
        f"  {where}: Fokker-Planck error {np.median(own):.3g}, error of the force "
        f"{np.median(true):.3g} (medians), rank correlation {agreement:.2f}"
    )

# %% [markdown]
# A small error is no proof: a network can be consistent with itself and wrong. And the equation
# does not know how often a place is visited, so a state that the data lack is not announced by
# it. What it can tell is where a model contradicts itself, and a simulation that spends its time
# there is not to be trusted. The rest is a matter of [comparison](compare.py).
