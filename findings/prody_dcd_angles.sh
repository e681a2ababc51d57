#!/usr/bin/env bash
# Guess: ProDy reads the cell of a DCD file as it was written.
# Seen:  angles of cells that are not rectangular come out wrong and in the order gamma, beta, alpha:
#        OpenMM and NAMD store cosines, and ProDy turns them into angles with 90/pi^2 where 180/pi is
#        meant, so that each deviation from 90 degrees shrinks 6.28 times. Rectangular cells are right.
# Since: ProDy 2.4.1; still so in 2.6.1.
# Who:   anyone who reads runs in a rhombic dodecahedron or truncated octahedron with ProDy.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'ProDy==2.6.1' 'mdtraj==1.11.1.post2' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import mdtraj
import numpy as np
import openmm
import openmm.app as app
import prody
from openmm import Vec3, unit

prody.confProDy(verbosity="none")
topology = app.Topology()
chain = topology.addChain("A")
for _ in range(2):
    topology.addAtom("BB", app.element.carbon, topology.addResidue("BEA", chain))
beads = 0.4 * np.arange(6.0).reshape(2, 3) * unit.nanometer
with open("beads.pdb", "w") as file:
    app.PDBFile.writeFile(topology, beads, file)
cells = {
    "triclinic": [Vec3(3.0, 0.0, 0.0), Vec3(1.0, 2.5, 0.0), Vec3(-1.0, 0.7, 2.2)],
    "dodecahedron": [Vec3(3.0, 0.0, 0.0), Vec3(0.0, 3.0, 0.0), Vec3(1.5, 1.5, 2.1213203)],
    "rectangular": [Vec3(3.0, 0.0, 0.0), Vec3(0.0, 3.1, 0.0), Vec3(0.0, 0.0, 3.2)],
}
print(f"OpenMM {openmm.__version__}, ProDy {prody.__version__}, MDTraj {mdtraj.__version__}")
print("a good guess: ProDy has the angles (alpha, beta, gamma) that MDTraj has")
found = {}
for name, vectors in cells.items():
    topology.setPeriodicBoxVectors(vectors * unit.nanometer)
    with open("cell.dcd", "wb") as file:
        dcd = app.DCDFile(file, topology, 0.002 * unit.picosecond)
        dcd.writeModel(beads, periodicBoxVectors=vectors * unit.nanometer)
    right = mdtraj.load("cell.dcd", top="beads.pdb").unitcell_angles[0]
    read = prody.DCDFile("cell.dcd").next().getUnitcell()[3:]
    found[name] = (right, read)
    print(f"{name}: MDTraj {right.round(2)}, ProDy {read.round(2)}")
right, read = found["triclinic"]
shrunk = 90.0 + (right - 90.0) / (2.0 * np.pi)
if not (
    np.allclose(read, shrunk[::-1], atol=0.01)
    and np.allclose(found["dodecahedron"][1], [90.0, 85.225, 85.225], atol=0.01)
    and np.allclose(*found["rectangular"], atol=0.01)
):
    sys.exit("the behaviour has changed")
PYTHON
