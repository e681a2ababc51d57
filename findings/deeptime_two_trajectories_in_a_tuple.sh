#!/usr/bin/env bash
# Guess: TICA(lagtime=1).fit((a, b)) and .fit([a, b]) of two trajectories are the same.
# Seen:  a tuple of exactly two arrays of equal length is taken as pairs (x_t, x_t+lag): frame k of one
#        replica is "followed" by frame k of the other. The slow process is gone, without a word. A list of the
#        same two is right; MaximumLikelihoodMSM of the same library takes the tuple as two trajectories.
# Since: deeptime 0.4.4; still so in 0.5.0.
# Who:   anyone who splits a run into two halves for a cross-validation, or has two replicas, and writes
#        tuple(...) or unpacks *args.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'deeptime==0.5.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from deeptime.decomposition import TICA, VAMP
from deeptime.markov.msm import MaximumLikelihoodMSM

rng = np.random.default_rng(0)
replicas = rng.normal(size=(3, 20_000, 2))
for frame in range(1, replicas.shape[1]):
    replicas[:, frame] += replicas[:, frame - 1] * [0.99, 0.5]  # relaxation times 99.5 and 1.4
first, second, third = replicas
cases = {
    "list of two": [first, second],
    "tuple of two": (first, second),
    "list of three": [first, second, third],
}
print(f"deeptime {version('deeptime')}")
print("a good guess: slowest timescale 99.5 frames in all cases")
slowest = {}
for name, data in cases.items():
    slowest[name] = [E(lagtime=1).fit(data).fetch_model().timescales()[0] for E in (TICA, VAMP)]
    print(f"{name}: TICA {slowest[name][0]:.2f}, VAMP {slowest[name][1]:.2f}")
sides = (replicas[:2, :, 0] > 0.0).astype(int)
msm = [
    MaximumLikelihoodMSM(lagtime=1).fit(data).fetch_model().timescales()[0]
    for data in ([*sides], tuple(sides))
]
print(f"MaximumLikelihoodMSM of two states: list {msm[0]:.2f}, tuple {msm[1]:.2f}")
right = [slowest["list of two"][0], slowest["list of three"][0]]
if not (
    np.allclose(right, 99.5, rtol=0.2)
    and max(slowest["tuple of two"]) < 1.0
    and np.isclose(*msm)
):
    sys.exit("the behaviour has changed")
PYTHON
