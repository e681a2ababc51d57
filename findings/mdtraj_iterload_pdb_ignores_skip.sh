#!/usr/bin/env bash
# Guess: mdtraj.iterload(file, skip=n) leaves out the first n frames whatever the format.
# Seen:  for PDB files `skip` is ignored without a word, beside a `stride` too: the first frames, those of
#        the equilibration, are in every average. DCD, TRR and XYZ files honour it.
# Since: MDTraj 1.10.0; still so in 1.11.1.post2.
# Who:   anyone who reads PDB trajectories (of OpenMM's PDBReporter, say) in chunks and drops the beginning.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'mdtraj==1.11.1.post2' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import mdtraj
import numpy as np

topology = mdtraj.Topology()
chain = topology.add_chain()
for _ in range(3):
    topology.add_atom("BB", mdtraj.element.carbon, topology.add_residue("BEA", chain))
frames = np.arange(12.0)[:, None, None] * np.ones((1, 3, 3))  # frame k lies at (k, k, k) nm
run = mdtraj.Trajectory(frames.astype(np.float32), topology)
run[0].save("top.pdb")
print(f"MDTraj {mdtraj.__version__}")
print("a good guess: skip=5 begins with frame 5")
begins = {}
for suffix in ("dcd", "trr", "xyz", "pdb"):
    run.save(f"run.{suffix}")
    options = {} if suffix == "pdb" else {"top": "top.pdb"}
    for stride in (1, 2):
        chunks = mdtraj.iterload(f"run.{suffix}", chunk=4, skip=5, stride=stride, **options)
        read = np.concatenate([chunk.xyz[:, 0, 0] for chunk in chunks]).round().astype(int)
        begins[suffix, stride] = int(read[0])
        print(f"{suffix}, stride {stride}: frames {read.tolist()}")
if begins != {(s, n): 0 if s == "pdb" else 5 for s, n in begins}:
    sys.exit("the behaviour has changed")
PYTHON
