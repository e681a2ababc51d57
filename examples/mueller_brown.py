# %% [markdown]
# # Müller-Brown: a diffusion model of a known density
# 100,000 independent draws from the Boltzmann distribution, the published network, and the
# Jensen-Shannon divergence between 100,000 samples of the model and as many new independent draws,
# with the noise floor (two independent sets of draws) beside it.

# %%
import argparse
import logging
import os
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from openmm_scoremd import ScoreModelFile, export_torchscript, save_dataset
from openmm_scoremd._io import write_json
from openmm_scoremd.analysis.metrics import (
    COMBINED_RANGE,
    MUELLER_BROWN_LIMITS,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.data.toy import sample_mueller_brown
from openmm_scoremd.training.config_file import load_training_config
from openmm_scoremd.training.trainer import CHECKPOINT, Trainer

SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
N = 2_000 if SMOKE_TEST else 100_000
BINS = 100
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
config = load_training_config(Path(__file__).with_name("mueller_brown.yaml"), overrides=overrides)
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
# ## Independent samples against independent draws

# %%
model = ScoreModelFile(export_torchscript(weights, output / "mueller_brown.pt"))
with Progress(console=console) as bars:
    task = bars.add_task(f"drawing {N} samples", total=None)
    samples = model.sample(
        N,
        seed=SEED,
        batch_size=20_000,
        n_steps=10 if SMOKE_TEST else None,
        progress=lambda done, total: bars.update(task, completed=done, total=total),
    )[:, 0, :2]
reference, other = (sample_mueller_brown(N, seed=s).positions[:, 0] for s in (1, 2))
results = {
    name: {
        "js_divergence": js_divergence(reference, points, bins=BINS, limits=MUELLER_BROWN_LIMITS),
        "js_divergence_combined_range": js_divergence(
            reference, points, bins=BINS, limits=COMBINED_RANGE
        ),
        "pmf_error": pmf_error(reference, points, bins=64, limits=MUELLER_BROWN_LIMITS),
    }
    for name, points in (("iid", samples), ("noise floor", other))
}
write_json(output / "metrics.json", {"seed": options.seed, "samples": N, **results})
for name, values in results.items():
    console.print(name, {key: round(value, 4) for key, value in values.items()})
