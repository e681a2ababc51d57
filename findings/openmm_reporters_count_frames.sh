#!/usr/bin/env bash
# Guess: XTC and DCD files of OpenMM hold the simulation's time: a run that goes on from 0.4 ps writes
#        0.5 ps into its first frame, also if the frames are now further apart.
# Seen:  the time is made up from the number of frames. A second file begins at 0.1 ps again; a file that
#        is appended to with another interval says 5 and 6 ps (XTC) or 0.5 and 0.6 ps (DCD) where the
#        simulation's clock says 1.4 and 2.4 ps. XTC has a time in every frame, so nothing forces this.
# Since: OpenMM 8.3.1 (8.1.1 still wrote 0.5 ps into the second DCD file); still so in 8.6.1.
# Who:   anyone with runs in parts: "continuous" chains of files overlap, and MSDs and lags are wrong.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'mdtraj==1.11.1.post2' 'MDAnalysis==2.11.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import MDAnalysis
import mdtraj
import numpy as np
import openmm
import openmm.app as app
from openmm import unit

topology = app.Topology()
chain = topology.addChain("A")
system = openmm.System()
for _ in range(5):
    topology.addAtom("BB", app.element.carbon, topology.addResidue("BEA", chain))
    system.addParticle(72.0)
start = 0.4 * np.arange(15.0).reshape(5, 3)
with open("beads.pdb", "w") as file:
    app.PDBFile.writeFile(topology, start * unit.nanometer, file)


def new_simulation():
    reference = openmm.Platform.getPlatform("Reference")
    return app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)


REPORTERS = {"dcd": app.DCDReporter, "xtc": app.XTCReporter}


def run(simulation, name, *, interval, steps, append=False):
    for suffix, reporter in REPORTERS.items():
        simulation.reporters.append(reporter(f"{name}.{suffix}", interval, append=append))
    simulation.step(steps)
    simulation.reporters.clear()


first = new_simulation()
first.context.setPositions(start)
run(first, "first", interval=50, steps=200)
first.saveState("state.xml")

second = new_simulation()
second.loadState("state.xml")
print(f"OpenMM {openmm.__version__}, MDTraj {mdtraj.__version__}, MDAnalysis {MDAnalysis.__version__}")
print(f"resumed at step {second.currentStep}, {second.context.getTime()}")
run(second, "second", interval=50, steps=100)
third = new_simulation()
third.loadState("state.xml")
run(third, "first", interval=500, steps=1000, append=True)
clock = third.context.getTime().value_in_unit(unit.picosecond)

times = {}
for name in ("second", "first"):
    for suffix in REPORTERS:
        frames = MDAnalysis.Universe("beads.pdb", f"{name}.{suffix}").trajectory
        times[name, suffix] = np.round([frame.time for frame in frames], 3)
mdtraj_times = mdtraj.load("second.xtc", top="beads.pdb").time
print("a good guess: second part 0.5, 0.6 ps; appended frames 1.4, 2.4 ps")
for suffix in REPORTERS:
    print(f"{suffix}, second part: {times['second', suffix]}")
    print(f"{suffix}, appended: {times['first', suffix]}, the clock at the end: {clock:.1f}")
print(f"xtc, second part, MDTraj: {mdtraj_times}")
if not (
    np.allclose(times["second", "dcd"], [0.1, 0.2])
    and np.allclose(times["second", "xtc"], [0.1, 0.2])
    and np.allclose(mdtraj_times, [0.1, 0.2])
    and np.allclose(times["first", "dcd"][4:], [0.5, 0.6])
    and np.allclose(times["first", "xtc"][4:], [5.0, 6.0])
    and np.isclose(clock, 2.4)
):
    sys.exit("the behaviour has changed")
PYTHON
