#!/usr/bin/env bash
# Guess: a PDB file that OpenMM writes has the same residue numbers in every reader.
# Seen:  from residue 10,000 on OpenMM counts in base 16 (A000 = 10000, A010 = 10016). MDTraj, gemmi and
#        others read the same four characters in base 36 (A010 = 10036), so numbers drift apart without a
#        word: residue 12000 becomes 19540. MDAnalysis calls all of them 1 and makes one residue of them.
# Since: OpenMM 8.1.1, gemmi 0.6.5, MDAnalysis 2.4.3; MDTraj 1.11.1 (1.10.0 made 40960 of A000).
# Who:   anyone who selects by residue number in a box of many coarse-grained copies, or of water.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'mdtraj==1.11.1.post2' 'gemmi==0.7.5' 'MDAnalysis==2.11.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import gemmi
import MDAnalysis
import mdtraj
import numpy as np
import openmm
import openmm.app as app
from openmm import unit

n_residues, shown = 12_000, [9998, 9999, 10015, 10016, 11999]  # counted from 0
topology = app.Topology()
chain = topology.addChain("A")
for number in range(1, n_residues + 1):
    residue = topology.addResidue("BEA", chain, id=str(number))
    topology.addAtom("BB", app.element.carbon, residue)
grid = 0.4 * np.stack(np.unravel_index(np.arange(n_residues), (25, 25, 25)), axis=1)
with open("beads.pdb", "w") as file:
    app.PDBFile.writeFile(topology, grid * unit.nanometer, file, keepIds=True)

written = [int(residue.id) for residue in topology.residues()]
openmm_reads = [int(r.id) for r in app.PDBFile("beads.pdb").topology.residues()]
mdtraj_reads = [r.resSeq for r in mdtraj.load("beads.pdb").topology.residues]
gemmi_reads = [r.seqid.num for r in gemmi.read_pdb("beads.pdb")[0][0]]
universe = MDAnalysis.Universe("beads.pdb")
mdanalysis_reads = universe.atoms.resids.tolist()

print(f"OpenMM {openmm.__version__}, MDTraj {mdtraj.__version__}, gemmi {gemmi.__version__}, "
      f"MDAnalysis {MDAnalysis.__version__}")
print("a good guess: every reader has the numbers that were written")
for name, numbers in (("written", written), ("OpenMM", openmm_reads), ("MDTraj", mdtraj_reads),
                      ("gemmi", gemmi_reads), ("MDAnalysis", mdanalysis_reads)):
    print(f"{name:>12}", [numbers[i] for i in shown])
print(f"residues in MDAnalysis: {len(universe.residues)} of {n_residues}")
if not (
    openmm_reads == written
    and mdtraj_reads[11999] == gemmi_reads[11999] == 19540
    and mdanalysis_reads[11999] == 1
    and len(universe.residues) == 10_000
):
    sys.exit("the behaviour has changed")
PYTHON
