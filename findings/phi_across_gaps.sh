#!/usr/bin/env bash
# Guess: a residue next to a gap in the chain has no phi or psi: the residue it would need is missing.
# Seen:  MDTraj and Biotite take the next residue in the file, three numbers on and 3.8 A away, and return
#        an angle (82 degrees in a helix of -57); peptide bonds "omega" of 75 degrees come with it. ProDy and
#        MDAnalysis leave these residues out. Numbers of angles differ, so columns cannot be compared.
# Since: MDTraj 1.10.0, Biotite 0.40.0; still so in the versions below.
# Who:   anyone who computes dihedrals of a crystal structure with unresolved loops, or of a chain cut up.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'mdtraj==1.11.1.post2' 'biotite==1.6.0' 'ProDy==2.6.1' 'MDAnalysis==2.11.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import biotite
import biotite.structure as structure
import biotite.structure.io.pdb as pdb
import MDAnalysis
import mdtraj
import numpy as np
import prody

prody.confProDy(verbosity="none")


def next_atom(chain, length, angle, dihedral):
    a, b, c = chain[-3:]
    angle, dihedral = np.radians([angle, dihedral])
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    frame = np.array([along, np.cross(normal, along), normal])
    local = [-np.cos(angle), np.sin(angle) * np.cos(dihedral), np.sin(angle) * np.sin(dihedral)]
    return c + length * np.array(local) @ frame


helix = [np.array([0.0, 0.0, 0.0]), np.array([1.46, 0.0, 0.0]), np.array([2.0, 1.42, 0.0])]
for _ in range(7):
    for length, angle, dihedral in ((1.33, 116, -47), (1.46, 122, 180), (1.52, 111, -57)):
        helix.append(next_atom(helix, length, angle, dihedral))
lines = []
for number in (1, 2, 3, 6, 7, 8):  # 4 and 5 are not resolved
    for k, name in enumerate(("N", "CA", "C")):
        x, y, z = helix[3 * (number - 1) + k]
        lines.append(
            f"ATOM  {len(lines) + 1:5d}  {name:<3} ALA A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
            f"  1.00  0.00           {name[0]}"
        )
with open("gap.pdb", "w") as file:
    file.write("\n".join([*lines, "END"]) + "\n")

loaded = mdtraj.load("gap.pdb")
by_mdtraj = np.degrees(mdtraj.compute_phi(loaded)[1][0]).round().tolist()
omega = np.degrees(mdtraj.compute_omega(loaded)[1][0])
array = pdb.PDBFile.read("gap.pdb").get_structure(model=1)
by_biotite = np.degrees(structure.dihedral_backbone(array)[0])[1:].round().tolist()
by_prody = []
for residue in list(prody.parsePDB("gap.pdb").iterResidues())[1:]:
    try:
        by_prody.append(round(float(prody.calcPhi(residue))))
    except ValueError:
        by_prody.append(None)
selections = [residue.phi_selection() for residue in MDAnalysis.Universe("gap.pdb").residues[1:]]
by_mdanalysis = [None if s is None else round(float(s.dihedral.value())) for s in selections]

print(f"MDTraj {mdtraj.__version__}, Biotite {biotite.__version__}, ProDy {prody.__version__}, "
      f"MDAnalysis {MDAnalysis.__version__}")
print("a good guess: phi of residues 2, 3, 7, 8 is -57 degrees, residue 6 after the gap has none")
print(f"MDTraj     {by_mdtraj}, omega {omega.round().tolist()}")
print(f"Biotite    {by_biotite}")
print(f"ProDy      {by_prody}")
print(f"MDAnalysis {by_mdanalysis}")
if not (
    by_mdtraj == by_biotite == [-57.0, -57.0, 82.0, -57.0, -57.0]
    and by_prody == by_mdanalysis == [-57, -57, None, -57, -57]
    and 70.0 < omega[2] < 80.0
):
    sys.exit("the behaviour has changed")
PYTHON
