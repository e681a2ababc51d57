# %% [markdown]
# # 4. Replicas, restarts, guards, biases
#
# A network costs little more for many molecules than for one, so simulations run as many replicas
# in one OpenMM Context. `ReplicaRun` does that in a folder, from which it can go on after any
# stop; it watches the replicas, and mends one that breaks without touching the others. On the
# command line it is `scoremd simulate`; [the page about simulations](../simulation.md) describes
# all files.

# %%
import argparse
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import openmm

from openmm_scoremd import ReplicaRun, RunSettings, ScoreModelFile
from openmm_scoremd.geometry import dihedrals, distances
from openmm_scoremd.simulation.replica_forces import replicated
from openmm_scoremd.trajectories.reading import load_replicas
from openmm_scoremd.trajectories.segments import unbroken_segments

ROOT = Path(__file__).resolve().parents[2]
SHORT = bool(os.environ.get("SMOKE_TEST"))
REPLICAS, STEPS, INTERVAL = (2, 40, 10) if SHORT else (8, 2_000, 10)
BACKEND = "auto" if SHORT else "kernel"

parser = argparse.ArgumentParser(description="Replicas, restarts, guards and biases.")
parser.add_argument("--output", type=Path, default=Path("runs/tutorials/replicas"))
output: Path = parser.parse_args().output
if output.exists():
    sys.exit(f"{output} exists already; remove it, or give another --output")
logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
model = ScoreModelFile(ROOT / "torchscript_models" / "alanine_dipeptide_invariant.pt")

# %% [markdown]
# ## Begin, stop, go on
#
# The run is stopped after about half of its steps here. Ctrl-C, SIGTERM, kill -9 or a power cut
# would do as well: what was written after the last checkpoint is cut off, and no frame is
# missing, doubled or torn. `steps` may be larger when a run goes on; other settings must be the
# same.
#
# Without `start=`, the run draws its own independent frames to begin from.

# %%
start = model.sample(REPLICAS, seed=1, n_steps=10 if SHORT else None)
settings = RunSettings(
    replicas=REPLICAS, steps=STEPS, interval=INTERVAL, seed=1, backend=BACKEND, platform="Reference"
)
with ReplicaRun.start(model, output / "md", settings, start=start) as run:
    run.advance(stop=lambda: run.step >= STEPS // 2)
    print(f"stopped at step {run.step} of {STEPS}, {run.frames} frames")
with ReplicaRun.resume(model, output / "md") as run:
    print(f"went on at step {run.step}")
    run.advance()
    print(f"ended at step {run.step}, {run.frames} frames")
frames = load_replicas(output / "md", n_beads=model.n_beads)
print("replicas, frames, beads, xyz:", frames.shape)

# %% [markdown]
# ## The same run without a stop
#
# On OpenMM's Reference and CPU platforms a run that was stopped is bit by bit the one that was
# not.

# %%
with ReplicaRun.start(model, output / "whole", settings, start=start) as run:
    run.advance()
whole = load_replicas(output / "whole", n_beads=model.n_beads)
print("largest difference in nm:", np.abs(frames - whole).max())

# %% [markdown]
# ## A replica that breaks
#
# A learned force knows nothing of places where there were no data. A replica whose bonds leave
# the range of the training by more than a margin (a quarter of their length by default), whose
# energy is far from those of the start frames, that is far too hot or becomes NaN is restarted
# from an independent frame. Its last good state and the bad frame are kept.
#
# To see that, we make it happen, with a time step that is almost too long for these bonds. A longer
# one makes replicas break more often than they simulate, and that is an error.

# %%
reckless = RunSettings(
    replicas=REPLICAS,
    steps=20 if SHORT else 400,
    interval=INTERVAL,
    seed=1,
    timestep=0.007,
    backend=BACKEND,
)
with ReplicaRun.start(model, output / "reckless", reckless, start=start) as run:
    run.advance()
    breaks = run.breaks.restarts
print(f"restarts: {len(breaks)}, in {REPLICAS} replicas of {reckless.picoseconds:g} ps")
for found in breaks[:3]:
    print(json.dumps(found))

# %% [markdown]
# Trajectories go on after a break with another molecule, as it were. What needs continuous time
# (correlation functions, TICA, Markov models) must stay within one of these segments; the report
# does.

# %%
segments = unbroken_segments(output / "reckless")
print(f"{len(segments)} unbroken segments; replica, first frame, frame after the last:")
print(segments[:6])

# %% [markdown]
# ## Forces of your own
#
# The model's force is one OpenMM force among others. `prepare_system` adds more before the
# Context is made, and `replicated` gives every replica the same terms; bead numbers are those of
# one molecule. Here a harmonic restraint pulls φ to 60 degrees, where the molecule is rarely
# without it.

# %%
PHI = (0, 1, 2, 3)
restraint = openmm.CustomTorsionForce(
    "0.5*k*d^2; d = min(delta, 6.283185307179586-delta); delta = abs(theta-theta0)"
)
restraint.addGlobalParameter("k", 20.0)  # kJ/mol/rad²
restraint.addGlobalParameter("theta0", np.radians(60.0))
restraint.addTorsion(*PHI, [])
pulled = RunSettings(replicas=REPLICAS, steps=STEPS, interval=INTERVAL, seed=1, backend=BACKEND)
with ReplicaRun.start(
    model, output / "pulled", pulled, start=start, prepare_system=replicated([restraint])
) as run:
    run.advance()
    print(f"restarts: {len(run.breaks.restarts)}")
biased = load_replicas(output / "pulled", n_beads=model.n_beads)
for name, sample in (("free", frames), ("restrained", biased)):
    late = sample[:, sample.shape[1] // 2 :].reshape(-1, model.n_beads, 3)
    phi = np.degrees(dihedrals(late, [PHI])[:, 0])
    ends = distances(late, np.array([(0, 4)]))
    near = (np.abs(phi - 60.0) < 40.0).mean()
    print(f"{name}: φ within 40° of 60° in {near:.0%} of frames, ends {ends.mean():.3f} nm apart")

# %% [markdown]
# Metadynamics and PLUMED are added in the same way; `examples/metadynamics.py` biases one replica
# and leaves another one free. A run with added forces can be resumed with the same forces only.
#
# ## Jumps
#
# A diffusion model can also leap over barriers: `RunSettings(jump_interval=...)` moves every
# replica to an independent frame from time to time. There is no Metropolis test, so where
# sampling and simulation disagree, the mixture is neither of the two. Jumps are recorded as
# breaks.
