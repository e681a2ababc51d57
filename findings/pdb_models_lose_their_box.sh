#!/usr/bin/env bash
# Guess: the box of a PDB trajectory (CRYST1 in the head, then MODEL 1, 2, ...) is the box of all models.
# Seen:  MDAnalysis finds no box in any model of OpenMM's PDBReporter, nor in files that it wrote itself;
#        chemfiles and ASE have it in the first model only; MDTraj has it in all. With one model and no
#        MODEL record all agree. Distances "with the minimum image" then are plain ones, without a word.
# Since: MDAnalysis 2.4.3, chemfiles 0.10.3, ASE 3.23.0; still so in the versions below.
# Who:   anyone who looks at periodic runs through PDB trajectories, the form that needs no topology.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'mdtraj==1.11.1.post2' 'MDAnalysis==2.11.0' 'chemfiles==0.10.4' 'ase==3.29.0' \
    'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import ase
import ase.io
import chemfiles
import MDAnalysis
import mdtraj
import numpy as np
import openmm
import openmm.app as app
from MDAnalysis.lib.distances import distance_array
from openmm import unit

topology = app.Topology()
chain = topology.addChain("A")
system = openmm.System()
for _ in range(2):
    topology.addAtom("BB", app.element.carbon, topology.addResidue("BEA", chain))
    system.addParticle(72.0)
box = np.diag([3.0, 3.1, 3.2])
topology.setPeriodicBoxVectors(box * unit.nanometer)
system.setDefaultPeriodicBoxVectors(*box)
start = np.array([[0.1, 0.0, 0.0], [2.9, 0.0, 0.0]])  # nm; 0.2 nm apart over the edge
reference = openmm.Platform.getPlatform("Reference")
simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)
simulation.context.setPositions(start)
simulation.reporters.append(app.PDBReporter("run.pdb", 10))
simulation.step(30)
with open("one.pdb", "w") as file:
    app.PDBFile.writeFile(topology, start * unit.nanometer, file)


def mdanalysis_boxes(path):
    frames = MDAnalysis.Universe(path).trajectory
    return [None if f.dimensions is None else f.dimensions[:3].round(1).tolist() for f in frames]


def chemfiles_boxes(path):
    chemfiles.set_warnings_callback(lambda message: None)
    with chemfiles.Trajectory(path) as trajectory:
        frames = [trajectory.read_step(step) for step in range(trajectory.nsteps)]
    return [list(frame.cell.lengths) for frame in frames]


one = MDAnalysis.Universe("one.pdb")
with MDAnalysis.Writer("own.pdb", multiframe=True) as writer:
    for _ in range(2):
        writer.write(one.atoms)
run = MDAnalysis.Universe("run.pdb")
distances = [
    distance_array(u.atoms[:1], u.atoms[1:], box=u.dimensions)[0, 0] for u in (one, run)
]
seen = {
    "MDTraj": (10.0 * mdtraj.load("run.pdb").unitcell_lengths).round(1).tolist(),
    "MDAnalysis": mdanalysis_boxes("run.pdb"),
    "MDAnalysis, its own file": mdanalysis_boxes("own.pdb"),
    "chemfiles": chemfiles_boxes("run.pdb"),
    "ASE": [atoms.cell.lengths().tolist() for atoms in ase.io.read("run.pdb", ":3")],
}
print(f"OpenMM {openmm.__version__}, MDTraj {mdtraj.__version__}, MDAnalysis "
      f"{MDAnalysis.__version__}, chemfiles {chemfiles.__version__}, ASE {ase.__version__}")
print("a good guess: 30.0 31.0 32.0 A in all models, beads 2 A apart")
for name, boxes in seen.items():
    print(f"{name}: {boxes}")
print(f"MDAnalysis, distance in A: one model {distances[0]:.1f}, first of three {distances[1]:.1f}")
cell, none = [30.0, 31.0, 32.0], [0.0, 0.0, 0.0]
if not (
    seen["MDTraj"] == [cell] * 3
    and seen["MDAnalysis"] == [None] * 3
    and seen["MDAnalysis, its own file"] == [None] * 2
    and seen["chemfiles"] == seen["ASE"] == [cell, none, none]
    and np.allclose(distances, [2.0, 28.0], atol=1e-3)
):
    sys.exit("the behaviour has changed")
PYTHON
