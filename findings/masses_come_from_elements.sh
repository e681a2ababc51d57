#!/usr/bin/env bash
# Guess: what makes a ParmEd Structure or an MDAnalysis Universe out of an OpenMM System or Simulation
#        keeps the System's masses.
# Seen:  both take the masses of the Topology's elements. Repartitioned hydrogens (3 Da) are 1.008 again, also
#        in the prmtop that ParmEd then saves and in the System that OpenMM makes from it. Energies are
#        equal, so comparing them shows nothing. A bead of 72 Da that is called carbon weighs 12.
# Since: ParmEd 4.2.2, MDAnalysis 2.4.3 with OpenMM 8.1.1; still so in the versions below.
# Who:   anyone who hands an OpenMM System with heavy hydrogens on to Amber (4 fs steps become unstable), or
#        computes centres of mass and radii of gyration of beads.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'ParmEd==4.3.1' 'MDAnalysis==2.11.0' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import MDAnalysis
import numpy as np
import openmm
import openmm.app as app
import parmed
from openmm import unit

amide = app.Topology()  # N-methylacetamide
owner = amide.addChain("A")
for residue_name, names in (("ACE", "H1 CH3 H2 H3 C O"), ("NME", "N H C H1 H2 H3")):
    residue = amide.addResidue(residue_name, owner)
    for name in names.split():
        amide.addAtom(name, app.Element.getBySymbol(name[0]), residue)
amide.createStandardBonds()
positions = 0.15 * np.stack(np.unravel_index(np.arange(12), (3, 2, 2)), axis=1) * unit.nanometer
field = app.ForceField("amber14-all.xml")
system = field.createSystem(amide, hydrogenMass=3.0 * unit.dalton)
dalton = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(12)]

structure = parmed.openmm.load_topology(amide, system, positions)
structure.save("amide.prmtop")
from_prmtop = app.AmberPrmtopFile("amide.prmtop").createSystem()
reference = openmm.Platform.getPlatform("Reference")


def energy(which):
    context = openmm.Context(which, openmm.VerletIntegrator(0.001), reference)
    context.setPositions(positions)
    return context.getState(energy=True).getPotentialEnergy() / unit.kilojoule_per_mole


simulation = app.Simulation(amide, system, openmm.VerletIntegrator(0.001), reference)
simulation.context.setPositions(positions)
universe = MDAnalysis.Universe(simulation)

beads = openmm.System()
line = app.Topology()
owner = line.addChain("A")
for mass in (72.0, 216.0):
    beads.addParticle(mass)
    line.addAtom("CA", app.element.carbon, line.addResidue("ALA", owner))
pair = app.Simulation(line, beads, openmm.VerletIntegrator(0.001), reference)
pair.context.setPositions([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0]])
centre = MDAnalysis.Universe(pair).atoms.center_of_mass()[0]

seen = {
    "System": dalton,
    "ParmEd": [atom.mass for atom in structure.atoms],
    "ParmEd, prmtop, OpenMM": [
        from_prmtop.getParticleMass(i).value_in_unit(unit.dalton) for i in range(12)
    ],
    "MDAnalysis": universe.atoms.masses,
}
print(f"OpenMM {openmm.__version__}, ParmEd {parmed.__version__}, "
      f"MDAnalysis {MDAnalysis.__version__}")
print("a good guess: the masses of the System everywhere")
for name, masses in seen.items():
    print(f"{name}: {np.round(np.asarray(masses, float), 3).tolist()}")
energies = energy(system), energy(from_prmtop)
print(f"energies of the two Systems: {energies[0]:.4f} and {energies[1]:.4f} kJ/mol")
print(f"beads of 72 and 216 Da at 0 and 4 A: MDAnalysis has their centre of mass at {centre:.2f} A")
elements = [atom.element.mass.value_in_unit(unit.dalton) for atom in amide.atoms()]
if not (
    np.isclose(dalton[0], 3.0)
    and all(np.allclose(list(seen[name]), elements, atol=0.01) for name in list(seen)[1:])
    and np.isclose(*energies, rtol=1e-5)
    and np.isclose(centre, 2.0)
):
    sys.exit("the behaviour has changed")
PYTHON
