#!/usr/bin/env bash
# Guess: Metadynamics(system, [x, y], ...).getFreeEnergy()[i, j] belongs to the i-th x and the j-th y.
# Seen:  axes are in reverse order: the array is [y, x]. With equal grid widths, as for phi and psi, nothing
#        shows it: the Ramachandran plot is mirrored at its diagonal. The documentation says what "the i'th
#        position along an axis" means, not which axis is which.
# Since: OpenMM 8.1.1; still so in 8.6.1.
# Who:   anyone who plots or compares a free energy of two collective variables.
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

system = openmm.System()
system.addParticle(12.0)
well = openmm.CustomExternalForce("2000*((x - 0.2)^2 + (y - 0.8)^2 + z^2)")
well.addParticle(0, [])
system.addForce(well)
variables = []
for axis in ("x", "y"):
    coordinate = openmm.CustomExternalForce(axis)
    coordinate.addParticle(0, [])
    variables.append(app.BiasVariable(coordinate, 0.0, 1.0, 0.05, periodic=False, gridWidth=21))
bias = app.Metadynamics(
    system, variables, 300.0 * unit.kelvin, biasFactor=5.0, height=1.0, frequency=10
)
topology = app.Topology()
topology.addAtom("A", app.element.carbon, topology.addResidue("A", topology.addChain()))
integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.002)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
simulation.context.setPositions([[0.2, 0.8, 0.0]])
bias.step(simulation, 2000)

x, y = bias.getCollectiveVariables(simulation)
free_energy = bias.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole)
lowest = np.array(np.unravel_index(free_energy.argmin(), free_energy.shape)) / 20.0
print(f"OpenMM {openmm.__version__}")
print("a good guess: variables x, y; the minimum lies near index [0.2, 0.8] of the grid 0 ... 1")
print(f"variables now: x = {x:.2f}, y = {y:.2f}; minimum at [{lowest[0]:.2f}, {lowest[1]:.2f}]")
if not (abs(x - 0.2) < 0.2 and abs(y - 0.8) < 0.2 and np.abs(lowest - [0.8, 0.2]).max() < 0.2):
    sys.exit("the behaviour has changed")
PYTHON
