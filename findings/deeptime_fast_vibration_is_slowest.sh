#!/usr/bin/env bash
# Guess: the first TICA component of deeptime is the slowest relaxation, and its timescale says how slow.
# Seen:  components are sorted by the absolute value of the eigenvalue, and the timescale is that of the
#        absolute value. A bond that vibrates, seen about every half period, has an eigenvalue of -0.99: it
#        comes first, with a timescale of 124 frames, before the jumps between two states (20 frames).
# Since: deeptime 0.4.4; still so in 0.5.0.
# Who:   anyone with TICA or an MSM on underdamped Langevin runs, coarse-grained ones above all: frames every
#        tenth of a ps alias the vibrations of beads.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'deeptime==0.5.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import math
import sys
from importlib.metadata import version

import numpy as np
import openmm
from deeptime.decomposition import TICA

# One bead of 60 Da on a spring of 20,000 kJ/mol/nm^2: period 2 pi sqrt(m / k) = 0.344 ps.
system = openmm.System()
system.addParticle(60.0)
spring = openmm.CustomExternalForce("10000*(x^2 + y^2 + z^2)")
spring.addParticle(0, [])
system.addForce(spring)
friction = 0.1  # 1/ps: amplitudes decay with 2 / friction = 20 ps
integrator = openmm.LangevinMiddleIntegrator(300.0, friction, 0.002)
integrator.setRandomNumberSeed(1)
context = openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))
context.setPositions([[0.01, 0.0, 0.0]])
bond = np.empty(20_000)
for frame in range(len(bond)):
    integrator.step(86)  # 0.172 ps, half a period
    bond[frame] = context.getState(positions=True).getPositions(asNumpy=True)._value[0, 0]
rng = np.random.default_rng(2)
jumps = rng.random(len(bond)) < 0.02  # leaves its state every 50 frames: relaxes in 25
state = np.where(np.cumsum(jumps) % 2, 1.0, -1.0) + 0.1 * rng.normal(size=len(bond))

features = np.stack([state, bond], axis=1)
model = TICA(lagtime=1).fit(features).fetch_model()
first = np.abs(model.singular_vectors_left[:, 0] * features.std(axis=0))
decay = -1.0 / math.log(math.exp(-friction * 0.172 / 2.0))
print(f"deeptime {version('deeptime')}, OpenMM {openmm.__version__}")
print("a good guess: the jumps come first, about 25 frames; the vibration is no slow process")
print(f"eigenvalues {model.singular_values.round(3)}, timescales {model.timescales().round(1)}")
print(f"share of the jumps in the first component {first[0] / first.sum():.3f}, of the vibration "
      f"{first[1] / first.sum():.3f} (its amplitude decays in {decay:.0f} frames)")
if not (
    model.singular_values[0] < -0.95
    and 0.9 < model.singular_values[1] < 0.98
    and model.timescales()[0] > 1.5 * model.timescales()[1] > 0.0
    and first[1] > 50.0 * first[0]
):
    sys.exit("the behaviour has changed")
PYTHON
