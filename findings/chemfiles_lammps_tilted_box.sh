#!/usr/bin/env bash
# Guess: the cell that chemfiles reads from a LAMMPS dump is the cell of the simulation.
# Seen:  for tilted boxes LAMMPS writes the bounds of a box around the cell, and the tilts must be taken
#        off again. chemfiles takes the bounds for the cell: 24 x 23 x 20 A instead of 15 x 20 x 20 A,
#        1.84 times the volume. MDTraj, MDAnalysis and ASE have the true cell.
# Since: chemfiles 0.10.3; still so in 0.10.4.
# Who:   anyone who computes densities, minimum images or g(r) from dumps of tilted boxes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'chemfiles==0.10.4' 'ase==3.29.0' 'MDAnalysis==2.11.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import ase
import ase.io
import chemfiles
import MDAnalysis
import numpy as np

cell = np.array([[15.0, 0.0, 0.0], [5.0, 20.0, 0.0], [4.0, 3.0, 20.0]])  # vectors a, b, c
(xy, xz, yz) = (cell[1, 0], cell[2, 0], cell[2, 1])
lines = [  # as the manual of LAMMPS describes: xlo_bound = xlo + min(0, xy, xz, xy + xz), ...
    "ITEM: TIMESTEP", "0", "ITEM: NUMBER OF ATOMS", "3", "ITEM: BOX BOUNDS xy xz yz pp pp pp",
    f"{min(0, xy, xz, xy + xz)} {cell[0, 0] + max(0, xy, xz, xy + xz)} {xy}",
    f"{min(0, yz)} {cell[1, 1] + max(0, yz)} {xz}",
    f"0 {cell[2, 2]} {yz}",
    "ITEM: ATOMS id type x y z", "1 1 1 2 3", "2 1 4 5 6", "3 1 7 8 9",
]
with open("tilted.lammpstrj", "w") as file:
    file.write("\n".join(lines) + "\n")

with chemfiles.Trajectory("tilted.lammpstrj") as trajectory:
    by_chemfiles = np.array(trajectory.read().cell.matrix).T
by_ase = ase.io.read("tilted.lammpstrj", format="lammps-dump-text").cell[:]
universe = MDAnalysis.Universe.empty(3, trajectory=False)
universe.load_new("tilted.lammpstrj", format="LAMMPSDUMP")
by_mdanalysis = MDAnalysis.lib.mdamath.triclinic_vectors(universe.dimensions)
print(f"chemfiles {chemfiles.__version__}, ASE {ase.__version__}, "
      f"MDAnalysis {MDAnalysis.__version__}")
print(f"a good guess: vectors {cell.tolist()}, {np.linalg.det(cell):.0f} A^3")
for name, read in (("ASE", by_ase), ("MDAnalysis", by_mdanalysis), ("chemfiles", by_chemfiles)):
    print(f"{name}: {read.round(3).tolist()}, {np.linalg.det(read):.0f} A^3")
wrong = [[24.0, 0.0, 0.0], [5.0, 23.0, 0.0], [4.0, 3.0, 20.0]]
if not (
    np.allclose(by_ase, cell)
    and np.allclose(by_mdanalysis, cell, atol=1e-3)
    and np.allclose(by_chemfiles, wrong)
):
    sys.exit("the behaviour has changed")
PYTHON
