#!/usr/bin/env bash
# Guess: frames that OpenMM wrote to a DCD file every 0.1 ps are 0.1 ps apart for every reader, also
#        after MDTraj has read them and saved them again.
# Seen:  the header holds the time step in units of 48.9 fs (CHARMM's). MDAnalysis converts; chemfiles
#        gives the bare number as ps (20.45 times too long); MDTraj gives frame numbers as times in ps.
#        What MDTraj saves says one such unit per frame whatever its times are: MDAnalysis reads 0.0489 ps.
# Since: MDTraj 1.10.0, chemfiles 0.10.3; still so in the versions below.
# Who:   anyone who strips or aligns a DCD with MDTraj and then computes diffusion or relaxation times.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'mdtraj==1.11.1.post2' 'MDAnalysis==2.11.0' 'chemfiles==0.10.4' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import chemfiles
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
reference = openmm.Platform.getPlatform("Reference")
simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)
simulation.context.setPositions(start)
simulation.reporters.append(app.DCDReporter("run.dcd", 50))
simulation.step(200)
loaded = mdtraj.load("run.dcd", top="beads.pdb")
loaded.time = 0.1 * np.arange(1, 5)  # ps, set right by hand
loaded.save("saved.dcd")


def mdanalysis_times(path):
    return [frame.time for frame in MDAnalysis.Universe("beads.pdb", path).trajectory]


def chemfiles_times(path):
    with chemfiles.Trajectory(path) as trajectory:
        return [trajectory.read_step(step)["time"] for step in range(trajectory.nsteps)]


times = {
    "OpenMM's file, MDAnalysis": mdanalysis_times("run.dcd"),
    "OpenMM's file, chemfiles": chemfiles_times("run.dcd"),
    "OpenMM's file, MDTraj": mdtraj.load("run.dcd", top="beads.pdb").time,
    "MDTraj's file, MDAnalysis": mdanalysis_times("saved.dcd"),
    "MDTraj's file, MDTraj": mdtraj.load("saved.dcd", top="beads.pdb").time,
}
print(f"OpenMM {openmm.__version__}, MDTraj {mdtraj.__version__}, MDAnalysis "
      f"{MDAnalysis.__version__}, chemfiles {chemfiles.__version__}")
print("a good guess: frames 0.1 ps apart everywhere")
steps = {}
for name, values in times.items():
    steps[name] = float(np.diff(np.asarray(values, dtype=float))[0])
    print(f"{name}: {steps[name]:.4f} ps apart, {np.round(np.asarray(values, float), 4)}")
if not np.allclose(list(steps.values()), [0.1, 2.0455, 1.0, 0.0489, 1.0], atol=1e-4):
    sys.exit("the behaviour has changed")
PYTHON
