# %% [markdown]
# # From a model file to a CG simulation
# Alanine dipeptide as five beads. The model file alone gives independent (iid) frames by reverse
# diffusion and forces for OpenMM; this script does both, writes trajectories and compares them with
# all-atom reference frames that training has not seen. `make demo` runs it; it takes two minutes on
# two cores.

# %%
import argparse
import logging
import os
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from openmm_scoremd import ReplicaSimulation, ScoreModelFile
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.evaluation.evaluate import evaluate
from openmm_scoremd.trajectories.bead_files import write_pdb, write_psf
from openmm_scoremd.trajectories.reading import load_replicas, save_frames

# %%
HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "torchscript_models" / "alanine_dipeptide_invariant.pt"
REFERENCE = HERE / "data" / "alanine_dipeptide.npz"
# Tests run a short form.
SMOKE_TEST = bool(os.environ.get("SMOKE_TEST"))
REPLICAS, STEPS, INTERVAL = (4, 40, 20) if SMOKE_TEST else (256, 20_000, 200)
IID_FRAMES, SAMPLER_STEPS = (50, 10) if SMOKE_TEST else (5_000, 60)
SEED = 1

parser = argparse.ArgumentParser(description="Run the main job with the shipped model.")
parser.add_argument("--output", type=Path, default=Path("demo_output"))
output: Path = parser.parse_args().output
output.mkdir(parents=True, exist_ok=True)
logging.basicConfig(level=logging.WARNING)
console = Console()
began = time.perf_counter()

# %% [markdown]
# ## The model file: verified before it is used

# %%
model = ScoreModelFile(MODEL)
console.print(
    f"[bold]{model.metadata.title}[/]\n{MODEL.name}, SHA-256 {model.sha256[:16]}…, self-test passed"
)

# %% [markdown]
# ## Independent frames

# %%
with console.status(f"drawing {IID_FRAMES} independent frames by reverse diffusion"):
    iid = model.sample(IID_FRAMES, seed=SEED, n_steps=SAMPLER_STEPS)
save_frames(iid, output / "iid.dcd")
write_pdb(model.bead_topology, iid[0], output / "topology.pdb")
write_psf(model.bead_topology, output / "topology.psf")

# %% [markdown]
# ## Replicas under LangevinMiddleIntegrator: 300 K, 1/ps, 2 fs, one Context, one DCD each

# %%
simulation = ReplicaSimulation(model, replicas=REPLICAS, seed=SEED)
simulation.set_positions(iid[:REPLICAS])
folder = output / "replicas"
for old in folder.glob("replica_*.dcd"):
    old.unlink()
simulation.add_trajectories(folder, interval=INTERVAL)
simulated = time.perf_counter()
for _ in track(range(STEPS // INTERVAL), description=f"simulating {REPLICAS} replicas"):
    simulation.step(INTERVAL)
rate = REPLICAS * STEPS / (time.perf_counter() - simulated)

# %% [markdown]
# ## Do sampling and simulation agree with the all-atom reference?

# %%
replicas = load_replicas(folder, n_beads=model.n_beads)
with console.status("comparing with reference frames"):
    comparison = evaluate(
        model,
        REFERENCE,
        output,
        iid=iid,
        replicas=replicas,
        seed=SEED,
        resampling=Resampling(n_resamples=20, n_repeats=5, max_frames=10_000),
    )
console.print(comparison.format_table(), highlight=False, soft_wrap=True)
console.print(
    "A consistent model has the same row twice: iid frames and simulation, each near the floor.\n"
    "40 ps are short: longer runs, and other models, are in docs/results.md."
)
console.print(
    f"{REPLICAS} replicas of {STEPS * 0.002:g} ps at {rate:,.0f} replica-steps/s, "
    f"{time.perf_counter() - began:.0f} s in all.\n"
    f"Open {output / 'ramachandran.png'}; trajectories: {folder}, topology: "
    f"{output / 'topology.pdb'}",
    highlight=False,
    soft_wrap=True,
)
