"""Exported models in openmm-ml: ``MLPotential("scoremd", modelPath="model.pt")``.

openmm-ml finds the factory through the entry point group ``openmmml.potentials`` and makes one when
it is imported itself. So this file loads neither torch nor anything else that could be broken: an
error here would end ``import openmmml`` for everybody.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import openmm
import openmm.app as app
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.artifact.metadata import ModelArchive
    from openmm_scoremd.forces.options import Backend
    from openmm_scoremd.topology import BeadTopology

logger = logging.getLogger(__name__)


class ScoreMDPotentialImplFactory(MLPotentialImplFactory):  # type: ignore[misc]
    """Makes the potential that ``MLPotential("scoremd", ...)`` stands for."""

    def createImpl(
        self, name: str, modelPath: str | os.PathLike[str], sha256: str | None = None
    ) -> ScoreMDPotentialImpl:
        """Read and check a model file; none of its code runs yet.

        Parameters
        ----------
        name : str
            Name of the potential, "scoremd".
        modelPath : path-like
            An exported ``.safetensors`` or ``.pt`` file.
        sha256 : str, optional
            Expected SHA-256 of the file.

        Returns
        -------
        ScoreMDPotentialImpl
            The potential.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged or not the expected one.
        """
        from openmm_scoremd.artifact.metadata import read_archive

        return ScoreMDPotentialImpl(read_archive(modelPath, sha256=sha256))


class ScoreMDPotentialImpl(MLPotentialImpl):  # type: ignore[misc]
    """Adds the force of a model to Systems that openmm-ml makes.

    Parameters
    ----------
    archive : ModelArchive
        A model file that was checked.
    """

    def __init__(self, archive: ModelArchive) -> None:
        self.archive = archive

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        backend: Backend = "auto",
        device: str | None = None,
        mlLongRange: bool | None = None,
        linkAtomDistances: Sequence[Any] = (),
    ) -> None:
        """Add the force; in a System of beads only, also give the beads their masses.

        Called by ``createSystem`` and ``createMixedSystem``, which pass on ``backend`` and
        ``device``; other options do not exist, and openmm-ml says so.

        Parameters
        ----------
        topology : openmm.app.Topology
            Its atoms, or those chosen, must be the beads of the model by name and in order, one or
            more replicas.
        system : openmm.System
            What the force is added to. ``createSystem`` gave its particles the masses of elements,
            and 0 (frozen) to beads without one; they get those of the model. In a mixed System
            masses stay as they are.
        atoms : iterable of int, optional
            The beads among the atoms; None for all atoms.
        forceGroup : int
            Force group.
        backend : {"auto", "torchforce", "pythonforce", "kernel"}
            Force class; see :func:`openmm_scoremd.forces.create.create_force`.
        device : str, optional
            PythonForce only: where the model runs.
        mlLongRange, linkAtomDistances
            Options of openmm-ml's embeddings, which pass them on; of no meaning here.

        Raises
        ------
        InvalidInputError
            If the atoms are not the beads of the model, the System is periodic, or a centre of mass
            would be held that must move.
        MissingDependencyError
            If TorchForce is asked for and cannot be used.
        """
        from openmm_scoremd.forces.create import create_force

        chosen = None if atoms is None else [int(atom) for atom in atoms]
        self._check_beads(topology, chosen)
        if chosen is None:
            self._check_centre_of_mass_motion(system)
            self._set_masses(system)
        force = create_force(
            self.archive,
            particles=chosen,
            # Interpolation asks for the force alone, with a System without particles.
            system=system if system.getNumParticles() else None,
            backend=backend,
            device=device,
            force_group=forceGroup,
        )
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Return False: nothing acts between periodic images."""
        return False

    def _check_beads(self, topology: app.Topology, chosen: Sequence[int] | None) -> None:
        atoms = list(topology.atoms())
        if chosen is not None:
            if outside := [i for i in chosen if not 0 <= i < len(atoms)]:
                raise InvalidInputError(
                    f"atoms has index {outside[0]}; the topology has {len(atoms)} atoms, counted "
                    "from 0"
                )
            atoms = [atoms[i] for i in chosen]
        expected, file = self.archive.metadata.topology, self.archive.path.name
        n_beads = expected.n_beads
        if not atoms or len(atoms) % n_beads:
            raise InvalidInputError(
                f"the potential would act on {len(atoms)} atoms; {file} has {n_beads} beads, so "
                f"give it a multiple of {n_beads}"
            )
        bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
        for first in range(0, len(atoms), n_beads):
            beads = _bead_topology(atoms[first : first + n_beads], bonds)
            if difference := beads.difference_from(expected):
                where = f" of copy {first // n_beads + 1}" if first else ""
                raise InvalidInputError(
                    f"the atoms are not the beads of {file}: {difference}{where}. The order of the "
                    f"beads is {' '.join(expected.names[:20])}: give a topology in that order, "
                    "such as BeadTopology.to_openmm()"
                )

    def _set_masses(self, system: openmm.System) -> None:
        masses = itertools.cycle(self.archive.metadata.topology.masses)
        for particle, mass in zip(range(system.getNumParticles()), masses, strict=False):
            system.setParticleMass(particle, mass)

    def _check_centre_of_mass_motion(self, system: openmm.System) -> None:
        """Refuse or report the CMMotionRemover that createSystem adds unless told otherwise."""
        metadata = self.archive.metadata
        if not _remover_will_be_added():
            return
        if not metadata.translation_invariant:
            raise InvalidInputError(
                f"{self.archive.path.name} has a potential that is fixed in space: openmm-ml's "
                "CMMotionRemover would stop its particles; give createSystem the option "
                "removeCMMotion=False"
            )
        replicas = system.getNumParticles() // metadata.n_beads
        if replicas > 1:
            logger.warning(
                "openmm-ml adds a CMMotionRemover, which acts on all %d replicas together: "
                "harmless for free replicas, but not where one is held or pushed by other forces; "
                "removeCMMotion=False leaves it out",
                replicas,
            )


def _bead_topology(
    atoms: Sequence[app.topology.Atom], bonds: Sequence[tuple[int, int]]
) -> BeadTopology:
    """Return what the atoms are as beads; elements and masses are not looked at."""
    from openmm_scoremd.topology import BeadTopology

    place = {atom.index: i for i, atom in enumerate(atoms)}
    inside = [(place[i], place[j]) for i, j in bonds if i in place and j in place]
    return BeadTopology(
        names=tuple(atom.name for atom in atoms),
        elements=("",) * len(atoms),
        residue_names=tuple(atom.residue.name for atom in atoms),
        residue_ids=(0,) * len(atoms),
        chain_ids=("",) * len(atoms),
        masses=(1.0,) * len(atoms),
        bonds=tuple(sorted((min(bond), max(bond)) for bond in inside)),
        residue_indices=tuple(atom.residue.index for atom in atoms),
    )


def _remover_will_be_added() -> bool:
    # createSystem does not pass its option on, so it is looked up where it was called. Where that
    # fails, nothing is said.
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "createSystem" and "removeCMMotion" in frame.f_locals:
            return bool(frame.f_locals["removeCMMotion"])
        frame = frame.f_back
    return False
