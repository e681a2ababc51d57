#!/usr/bin/env bash
# Guess: ASE reads velocities of an AMBER NetCDF trajectory in its own unit, as it does those of a GRO file.
# Seen:  the file has Angstrom/ps, and ASE takes the number for Angstrom per 10.18 fs: velocities are 98.2
#        times too large and a gas at 300 K has 2.9 million K. Positions are right.
# Since: ASE 3.23.0; still so in 3.29.0.
# Who:   anyone who goes on from frames with velocities (Amber, ParmEd's and MDAnalysis' writers) in ASE.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    'openmm==8.6.1' 'MDAnalysis==2.11.0' 'ase==3.29.0' 'netCDF4==1.7.4' 'numpy==2.4.6'
venv/bin/python -W ignore - <<'PYTHON'
import sys

import ase
import ase.io
import MDAnalysis
import numpy as np
import openmm
import openmm.app as app
from ase import units

n_atoms = 500
topology = app.Topology()
chain = topology.addChain("A")
system = openmm.System()
for _ in range(n_atoms):
    topology.addAtom("AR", app.element.argon, topology.addResidue("AR", chain))
    system.addParticle(app.element.argon.mass)
reference = openmm.Platform.getPlatform("Reference")
simulation = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), reference)
simulation.context.setPositions(5.0 * np.random.default_rng(0).random((n_atoms, 3)))
simulation.context.setVelocitiesToTemperature(300.0, 1)
universe = MDAnalysis.Universe(simulation)
universe.dimensions = [50.0, 50.0, 50.0, 90.0, 90.0, 90.0]
with MDAnalysis.Writer("gas.nc", n_atoms=n_atoms, velocities=True, format="NCDF") as writer:
    writer.write(universe.atoms)
universe.atoms.write("gas.gro")


def read(path, **options):
    velocities = 1000.0 * units.fs * ase.io.read(path, **options).get_velocities()  # A/ps
    kinetic = 0.5 * 39.948 * (velocities**2).sum() * 0.01  # kJ/mol
    return 2.0 * kinetic / (3 * n_atoms * 0.0083144626), velocities[0]


again = MDAnalysis.Universe("gas.gro", "gas.nc", format="NCDF").atoms.velocities[0]
gro, netcdf = read("gas.gro"), read("gas.nc", format="netcdftrajectory")
print(f"ASE {ase.__version__}, MDAnalysis {MDAnalysis.__version__}, OpenMM {openmm.__version__}")
print(f"a good guess: about 300 K; velocity of the first atom {again.round(3)} A/ps")
print(f"GRO file: {gro[0]:.1f} K, {gro[1].round(3)} A/ps")
print(f"NetCDF file: {netcdf[0]:.0f} K, {netcdf[1].round(3)} A/ps")
factor = 1000.0 * units.fs  # of ASE's unit of time in a ps
if not (
    abs(gro[0] - 300.0) < 30.0
    and np.allclose(netcdf[1], again * factor, rtol=1e-4)
    and np.isclose(netcdf[0] / gro[0], factor**2, rtol=0.01)
):
    sys.exit("the behaviour has changed")
PYTHON
