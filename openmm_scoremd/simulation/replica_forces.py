"""Ordinary OpenMM forces for every replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import openmm

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.simulation.replicas import PrepareSystem


class _Terms(NamedTuple):
    """How OpenMM names the terms of a force, and how many of their parameters are particles."""

    name: str
    particles: int


_TERMS = {
    openmm.HarmonicBondForce: _Terms("Bond", 2),
    openmm.CustomBondForce: _Terms("Bond", 2),
    openmm.HarmonicAngleForce: _Terms("Angle", 3),
    openmm.CustomAngleForce: _Terms("Angle", 3),
    openmm.PeriodicTorsionForce: _Terms("Torsion", 4),
    openmm.RBTorsionForce: _Terms("Torsion", 4),
    openmm.CustomTorsionForce: _Terms("Torsion", 4),
    openmm.CustomExternalForce: _Terms("Particle", 1),
}


def replicated(forces: Sequence[openmm.Force]) -> PrepareSystem:
    """Return a ``prepare_system`` that gives every replica these forces.

    Parameters
    ----------
    forces : sequence of openmm.Force
        Forces on the beads of one molecule, counted from 0: harmonic and custom bonds, angles and
        torsions, and external forces such as position restraints. Every replica gets their terms;
        global parameters are shared. For others write a ``prepare_system`` of your own.

    Returns
    -------
    callable
        For :class:`~openmm_scoremd.simulation.replicas.ReplicaSimulation` and
        :class:`~openmm_scoremd.simulation.run.replica_run.ReplicaRun`.

    Raises
    ------
    InvalidInputError
        If a force is of another class; when called, if a bead is not there.
    """
    for force in forces:
        if type(force) not in _TERMS:
            known = ", ".join(sorted(kind.__name__ for kind in _TERMS))
            raise InvalidInputError(
                f"{type(force).__name__} cannot be replicated ({known} can); add it in a "
                "prepare_system of your own"
            )

    def prepare(system: openmm.System, particles: Sequence[range]) -> None:
        for force in forces:
            system.addForce(_for_all(force, particles))

    return prepare


def _for_all(force: openmm.Force, particles: Sequence[range]) -> openmm.Force:
    """Return a copy whose terms, which are those of the first replica, are there for all."""
    terms = _TERMS[type(force)]
    copy = openmm.XmlSerializer.clone(force)
    count: int = getattr(copy, f"getNum{terms.name}s")()
    add: Any = getattr(copy, f"add{terms.name}")
    change: Any = getattr(copy, f"set{terms.name}Parameters")
    for index in range(count):
        values = getattr(force, f"get{terms.name}Parameters")(index)
        beads, parameters = values[: terms.particles], values[terms.particles :]
        if max(beads) >= len(particles[0]):
            raise InvalidInputError(
                f"{type(force).__name__} acts on bead {max(beads)}; a molecule has "
                f"{len(particles[0])} beads, counted from 0"
            )
        change(index, *(particles[0][bead] for bead in beads), *parameters)
        for replica in particles[1:]:
            add(*(replica[bead] for bead in beads), *parameters)
    return copy
