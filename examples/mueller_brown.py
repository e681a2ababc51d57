# %% [markdown]
# # Müller-Brown: sampling and simulation of a known density
# 100,000 independent draws from the Boltzmann distribution, the "both-fast" configuration, and the
# Jensen-Shannon divergence from them of 100,000 iid samples of the model and of a simulation with
# its force, with the noise floor (another set of draws) beside both. Five minutes of training and
# five of simulation on one core; `benchmarks/mueller_brown.py` compares all methods and seeds.

# %%
import argparse
import logging
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, track

from openmm_scoremd import ReplicaSimulation, ScoreModelFile, export_torchscript, save_dataset
from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.analysis.comparison.metrics import (
    MUELLER_BROWN_LIMITS,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.trainer import CHECKPOINT, Trainer

CONFIG = Path(__file__).parent / "methods/mueller_brown_both_fast.yaml"
SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
N = 2_000 if SMOKE_TEST else 100_000
REPLICAS, STEPS, INTERVAL = (10, 20, 10) if SMOKE_TEST else (100, 50_000, 50)
SEED = 0

parser = argparse.ArgumentParser(description="Train and evaluate the Müller-Brown model.")
parser.add_argument("--output", type=Path, default=Path("runs/mueller_brown"))
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
output: Path = options.output
logging.basicConfig(level=logging.INFO, format="%(message)s")
console = Console()

# %% [markdown]
# ## Data and training (a stopped run goes on where it was)

# %%
save_dataset(sample_mueller_brown(N, seed=SEED), output / "data.npz")
overrides = [f"data.path={output / 'data.npz'}", f"seed={options.seed}"]
if SMOKE_TEST:
    overrides += ["epochs=1", "hardware.backend=eager", "log_steps=5"]
config = load_training_config(CONFIG, overrides=overrides)
with Progress(console=console) as bars:
    task = bars.add_task("training", total=None)
    trainer = Trainer(
        config,
        output / "training",
        progress=lambda row, total: bars.update(task, completed=row.step, total=total),
    )
    resumes = (output / "training" / CHECKPOINT).exists()
    weights = trainer.resume() if resumes else trainer.start()

# %% [markdown]
# ## Independent samples

# %%
model = ScoreModelFile(export_torchscript(weights, output / "mueller_brown.pt"))
with Progress(console=console) as bars:
    task = bars.add_task(f"drawing {N} samples", total=None)
    iid = model.sample(
        N,
        seed=SEED,
        batch_size=20_000,
        n_steps=10 if SMOKE_TEST else None,
        progress=lambda done, total: bars.update(task, completed=done, total=total),
    )[:, 0, :2]

# %% [markdown]
# ## Simulation with the model's force, from iid frames: 5 fs, 1/ps

# %%
simulation = ReplicaSimulation(model, replicas=REPLICAS, seed=SEED, friction=1.0, timestep=0.005)
simulation.set_positions(model.sample(REPLICAS, seed=SEED + 1, n_steps=10 if SMOKE_TEST else None))
frames = []
for _ in track(range(STEPS // INTERVAL), description="simulating", console=console):
    simulation.step(INTERVAL)
    frames.append(simulation.positions[:, 0, :2].copy())
simulated = np.concatenate(frames)

# %% [markdown]
# ## Both against the training frames

# %%
reference = sample_mueller_brown(N, seed=SEED).positions[:, 0]
other = sample_mueller_brown(N, seed=SEED + 100).positions[:, 0]
results = {
    name: {
        "js_divergence": js_divergence(reference, points, bins=100, limits=MUELLER_BROWN_LIMITS),
        "pmf_error": pmf_error(reference, points, bins=64, limits=MUELLER_BROWN_LIMITS),
    }
    for name, points in (("iid", iid), ("simulation", simulated), ("noise floor", other))
}
write_json(output / "metrics.json", {"seed": options.seed, "samples": N, **results})
for name, values in results.items():
    console.print(name, {key: round(value, 4) for key, value in values.items()})
