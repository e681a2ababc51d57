#!/usr/bin/env bash
# Guess: numpy functions of OpenMM quantities convert units or refuse, as `+` does.
# Seen:  they drop the units. np.concatenate of nm and Angstrom, np.add, np.subtract, np.stack and np.mean of
#        kcal/mol and kJ/mol work on the bare numbers and return arrays without unit; setPositions takes those
#        for nm. OpenMM's own readers differ in unit (PDB: nm; Amber's inpcrd: Angstrom), as does ParmEd.
# Since: OpenMM 8.1.1; still so in 8.6.1.
# Who:   anyone who puts a molecule from one file beside one from another, or averages energies of two codes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'openmm==8.6.1' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import numpy as np
import openmm
import openmm.app as app
from openmm import unit

with open("one.pdb", "w") as file:
    file.write("HETATM    1 AR    AR A   1      10.000   0.000   0.000  1.00  0.00          AR\nEND\n")
with open("two.inpcrd", "w") as file:
    file.write("argon\n    1\n  14.0000000   0.0000000   0.0000000\n")
one, two = app.PDBFile("one.pdb").positions, app.AmberInpcrdFile("two.inpcrd").positions
one, two = (np.array(p.value_in_unit(p.unit)) * p.unit for p in (one, two))
system = openmm.System()
for _ in range(2):
    system.addParticle(39.95)
context = openmm.Context(
    system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
)
context.setPositions(np.concatenate([one, two]))
x = context.getState(positions=True).getPositions(asNumpy=True)[:, 0]

kcal = np.array([1.0, 2.0]) * unit.kilocalorie_per_mole
kj = np.array([1.0, 2.0]) * unit.kilojoule_per_mole
mean = np.mean([kcal, kj], axis=0)
print(f"OpenMM {openmm.__version__}, numpy {np.__version__}")
print(f"units of the two files: {one.unit}, {two.unit}")
print("a good guess: atoms at 1.0 and 1.4 nm, 0.4 nm apart")
print(f"np.concatenate: atoms at {x}")
print("a good guess: kcal + kJ = [5.184 10.368] kJ/mol, or an error")
print(f"+: {(kcal + kj).in_units_of(unit.kilojoule_per_mole)}; np.add: {np.add(kcal, kj)}; "
      f"np.mean of both: {mean}")
if not (
    np.allclose(x.value_in_unit(unit.nanometer), [1.0, 14.0])
    and np.allclose((kcal + kj).value_in_unit(unit.kilojoule_per_mole), [5.184, 10.368])
    and type(np.add(kcal, kj)) is type(mean) is np.ndarray
    and np.allclose(np.add(kcal, kj), [2.0, 4.0])
    and np.allclose(mean, [1.0, 2.0])
):
    sys.exit("the behaviour has changed")
PYTHON
