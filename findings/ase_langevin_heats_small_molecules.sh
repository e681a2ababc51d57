#!/usr/bin/env bash
# Guess: Langevin(atoms, ..., temperature_K=300) of ASE samples 300 K; its thermometer says 300 K, too.
# Seen:  the centre of mass is held still by default, and the noise of N atoms is scaled up by N / (N - 1) so
#        that a thermometer with 3N degrees of freedom shows 300 K. Inner motion has all of it: a molecule of
#        two beads vibrates at 600 K, one of five at 375 K. fixcm=False is right.
# Since: ASE 3.25.0 (in 3.24.0 inner motion was right and the thermometer showed 150 K), silently until
#        3.27.0; from 3.28.0 a warning speaks of deviations that are "typically small".
# Who:   anyone who runs a coarse-grained or otherwise small molecule with ASE as the engine of a model.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'ase==3.27.0' 'numpy==2.4.6' 'scipy==1.17.1'
venv/bin/python -W error::FutureWarning - <<'PYTHON'
import sys

import ase
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin

STIFFNESS = 1.0  # eV/A^2


class Springs(Calculator):
    """Harmonic springs of length zero between all pairs: 3 (N - 1) inner degrees of freedom."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        inner = x - x.mean(axis=0)
        self.results["energy"] = 0.5 * STIFFNESS * len(x) * (inner**2).sum()
        self.results["forces"] = -STIFFNESS * len(x) * inner


def temperatures(n_beads, fixcm):
    beads = Atoms(f"C{n_beads}", positions=0.1 * np.random.default_rng(1).normal(size=(n_beads, 3)))
    beads.calc = Springs()
    run = Langevin(
        beads, 2.0 * units.fs, temperature_K=300.0, friction=0.05 / units.fs, fixcm=fixcm,
        rng=np.random.default_rng(0),
    )
    run.run(500)
    energies, shown = [], []
    for _ in range(12_000):
        run.run(2)
        energies.append(beads.get_potential_energy())
        shown.append(beads.get_temperature())
    return 2.0 * np.mean(energies) / (3 * (n_beads - 1)) / units.kB, np.mean(shown)


print(f"ASE {ase.__version__}")
print("a good guess: 300 K inside and on the thermometer")
inside = {}
for n_beads, fixcm in ((2, True), (5, True), (2, False)):
    inside[n_beads, fixcm], shown = temperatures(n_beads, fixcm)
    print(f"{n_beads} beads, fixcm={fixcm}: potential energy of {inside[n_beads, fixcm]:.0f} K, "
          f"thermometer {shown:.0f} K")
if not (
    abs(inside[2, True] - 600.0) < 45.0
    and abs(inside[5, True] - 375.0) < 30.0
    and abs(inside[2, False] - 300.0) < 30.0
):
    sys.exit("the behaviour has changed")
PYTHON
