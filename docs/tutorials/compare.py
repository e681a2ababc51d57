# %% [markdown]
# # 3. Sampling against simulation
#
# One model gives two distributions: that of its independent (iid) samples, and that of a
# simulation with its force. For a perfect model both are the distribution of the data. In
# practice they differ, and a simulation is only worth something if one knows by how much.
#
# Here the shipped model is sampled and simulated, and the report compares both with all-atom
# reference frames that training has not seen, and with each other.

# %%
import argparse
import logging
import os
import sys
from pathlib import Path

from openmm_scoremd import ReplicaRun, RunSettings, ScoreModelFile
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.errors import InconsistentError
from openmm_scoremd.evaluation.evaluate import evaluate, read_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = bool(os.environ.get("SMOKE_TEST"))
FRAMES, SAMPLER_STEPS = (100, 10) if SHORT else (1_000, 60)
REPLICAS, STEPS, INTERVAL = (4, 40, 10) if SHORT else (16, 3_000, 50)
SEED = 1

parser = argparse.ArgumentParser(description="Compare sampling and simulation.")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/compare"))
output: Path = parser.parse_args().output
if output.exists():
    sys.exit(f"{output} exists already; remove it, or give another --output")
logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
model = ScoreModelFile(ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt")
reference = ROOT / "examples" / "data" / "alanine_dipeptide.npz"

# %% [markdown]
# ## Sample and simulate
#
# Replicas share one OpenMM Context and start from independent frames. `backend="kernel"`
# evaluates the model with a C++ kernel that is compiled at first use; where there is no compiler,
# TorchForce does it, and a log line says so.

# %%
iid = model.sample(FRAMES, seed=SEED, n_steps=SAMPLER_STEPS)
print(f"{len(iid)} independent frames")
settings = RunSettings(
    replicas=REPLICAS,
    steps=STEPS,
    interval=INTERVAL,
    seed=SEED,
    backend="auto" if SHORT else "kernel",
)
with ReplicaRun.start(model, output / "md", settings) as run:
    run.advance()
    speed = run.replica_steps_per_second
print(f"{REPLICAS} replicas of {settings.picoseconds:g} ps, {speed:,.0f} replica-steps/s")

# %% [markdown]
# ## Compare
#
# On the command line this is `scoremd evaluate`. `read_run` also reads where replicas were
# started again, so that nothing that needs a continuous trajectory looks across.

# %%
result = evaluate(
    model,
    reference,
    output / "report",
    iid=iid,
    replicas=read_run(output / "md", n_beads=model.n_beads),
    seed=SEED,
    resampling=Resampling(n_resamples=20, n_repeats=5, max_frames=500 if SHORT else 10_000),
)
print(result.format_table())

# %% [markdown]
# ## How to read the table
#
# - **value**: the metric between the set and the reference, with its bootstrap error.
# - **noise floor**: the same metric between two independent sets of *reference* frames of the same
#   sizes. A divergence between two finite sets is never zero; this is what a perfect model gets.
# - **ratio**: value over floor. Around 1, nothing is wrong that this metric could see.
# - **p**: whether the clearest difference in these observables can be chance; the line below the
#   metrics has that of all regions, which decides.
#
# Frames of a simulation are correlated, so a few thousand of them may be worth some hundred: even
# a perfect simulation lies above its floor. The verdict below the table takes that into account.
#
# ## The verdict
#
# Every two sets are compared: for many regions of all bonds, angles, distances, dihedrals, basins
# and energies, the fractions of frames there. The smallest p-value of all regions is judged
# against what it is by chance. `alpha=0.01` is the probability of a false alarm in the report as
# a whole, shared by its pairs. "Consistent" means that these frames do not contradict it, and would
# have shown larger differences than stand beside it. Short runs see little: then the verdict is
# "cannot tell". Where two sets contradict each other, the report names the regions.

# %%
for pair in result.summary.pairs:
    print(f"{pair.second} and {pair.first}: {pair.verdict}, p = {pair.p_value:.2g}")
try:
    result.require_consistent()
    print("nothing found that contradicts consistency")
except InconsistentError as error:
    # What `scoremd evaluate --require-consistent` ends with, and exit code 3.
    print(error)

# %% [markdown]
# The folder now holds `report.html`, one file without scripts or links to elsewhere, and
# `metrics.json` with all its numbers; [the page about the report](../report.md) shows one.

# %%
print("open", output / "report" / "report.html")
