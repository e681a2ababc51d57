"""Which beads belong together, said to OpenMM, which asks the bonds of forces: a model has none."""

from __future__ import annotations

from typing import Final

import openmm

#: Name and force group of the springs.
MOLECULES: Final = "Molecules"
MOLECULES_GROUP: Final = 31


def declared_molecules(n_beads: int, replicas: int) -> openmm.HarmonicBondForce:
    """Return springs without strength that connect the beads of every replica.

    Parameters
    ----------
    n_beads : int
        Beads of a replica.
    replicas : int
        Copies in the System, one after another.
    """
    bonds = openmm.HarmonicBondForce()
    bonds.setName(MOLECULES)
    bonds.setForceGroup(MOLECULES_GROUP)
    for first in range(0, replicas * n_beads, n_beads):
        for bead in range(first, first + n_beads - 1):
            bonds.addBond(bead, bead + 1, 0.0, 0.0)
    return bonds


def pass_over_molecules(system: openmm.System, integrator: openmm.Integrator) -> None:
    """Leave these springs out of the steps of an integrator.

    With many replicas they would take up to a tenth of the time of a small model. Where another
    force of the System has their group, they stay.
    """
    others = {force.getForceGroup() for force in system.getForces() if force.getName() != MOLECULES}
    if MOLECULES_GROUP not in others:
        integrator.setIntegrationForceGroups(set(range(32)) - {MOLECULES_GROUP})
