"""All-atom topologies and trajectories to beads: every bead is one atom that is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import mdtraj
import numpy as np
import numpy.typing as npt
import parmed

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data._presets import ca_bonds, preset_atoms
from openmm_scoremd.data._reading import atom_chunks
from openmm_scoremd.data.dataset import CGDataset, check_finite
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.geometry import center, kabsch_align
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import to_kelvin

if TYPE_CHECKING:
    from openmm_scoremd.units import FloatOrQuantity

PathLike: TypeAlias = str | os.PathLike[str]
_Bonds: TypeAlias = tuple[tuple[int, int], ...]

#: Suffixes read with ParmEd; MDTraj reads everything else.
PARMED_SUFFIXES = (".prmtop", ".parm7", ".prm7", ".psf", ".top")


@dataclasses.dataclass(frozen=True)
class CoarseGrainingMap:
    """Which atoms are kept as beads.

    Attributes
    ----------
    atom_indices : tuple of int
        The atom that becomes each bead, as numbered in the source topology.
    topology : BeadTopology
        What the beads are.
    """

    atom_indices: tuple[int, ...]
    topology: BeadTopology

    @classmethod
    def from_selection(cls, topology: mdtraj.Topology, selection: str) -> CoarseGrainingMap:
        """Keep the atoms of a selection, in the order of the topology.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        selection : str
            MDTraj selection, such as ``"name CA"``.

        Raises
        ------
        InvalidInputError
            If the selection cannot be understood or matches nothing.
        DatasetError
            If an atom kept has no mass.
        """
        try:
            indices = topology.select(selection)
        # The selection language raises whatever its parser or Python's compiler raises.
        except Exception as error:
            raise InvalidInputError(
                f"selection {selection!r} is not MDTraj selection language ({error}); "
                "an example is 'name CA and chainid 0'"
            ) from error
        if len(indices) == 0:
            raise InvalidInputError(
                f"selection {selection!r} matches none of the {topology.n_atoms} atoms; "
                f"names that exist: {_some(sorted({atom.name for atom in topology.atoms}))}"
            )
        return cls._from_atoms(topology, [int(index) for index in indices])

    @classmethod
    def from_indices(cls, topology: mdtraj.Topology, indices: Sequence[int]) -> CoarseGrainingMap:
        """Keep these atoms, in this order.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        indices : sequence of int
            Atom indices, counted from 0.

        Raises
        ------
        InvalidInputError
            If there is no index, one is out of range, or one is given twice.
        DatasetError
            If an atom kept has no mass.
        """
        atoms = [int(index) for index in indices]
        if not atoms or len(set(atoms)) != len(atoms):
            raise InvalidInputError(f"atom indices are {atoms}; give at least one, each only once")
        if not 0 <= min(atoms) <= max(atoms) < topology.n_atoms:
            raise InvalidInputError(
                f"atom indices go from {min(atoms)} to {max(atoms)}; "
                f"with {topology.n_atoms} atoms they must lie in 0..{topology.n_atoms - 1}"
            )
        return cls._from_atoms(topology, atoms)

    @classmethod
    def from_preset(cls, topology: mdtraj.Topology, preset: str) -> CoarseGrainingMap:
        """Keep the atoms of a named set.

        ==================== ==============================================================
        preset               beads
        ==================== ==============================================================
        alanine-dipeptide    C of ACE; N, CA, C of ALA; N of NME
        backbone-cb          N, CA, CB, C, O of every amino acid; glycine is refused
        ca                   CA of every amino acid, bonded along each chain
        ==================== ==============================================================

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        preset : str
            One of the names above.

        Raises
        ------
        InvalidInputError
            If there is no such preset.
        DatasetError
            If the topology lacks an atom of the preset or has too many.
        """
        mapping = cls._from_atoms(topology, preset_atoms(topology, preset))
        if preset != "ca":
            return mapping
        bonds = ca_bonds(topology, mapping.atom_indices)
        beads = dataclasses.replace(mapping.topology, bonds=bonds)
        return dataclasses.replace(mapping, topology=beads)

    def apply(self, positions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the coordinates of the beads.

        Parameters
        ----------
        positions : (..., atoms, 3), nm
            All-atom coordinates.

        Returns
        -------
        (..., beads, 3), nm
            Coordinates of the atoms kept, unchanged.

        Raises
        ------
        InvalidInputError
            If there are too few atoms.
        """
        if positions.ndim < 2 or positions.shape[-2] <= max(self.atom_indices):
            raise InvalidInputError(
                f"positions have shape {positions.shape}; the map keeps atom "
                f"{max(self.atom_indices)}, so give (..., atoms, 3) with more atoms than that"
            )
        return positions[..., list(self.atom_indices), :]

    @classmethod
    def _from_atoms(cls, topology: mdtraj.Topology, indices: list[int]) -> CoarseGrainingMap:
        atoms = [topology.atom(index) for index in indices]
        chains = _chain_names(topology)
        beads = BeadTopology(
            names=tuple(atom.name for atom in atoms),
            elements=tuple(atom.element.symbol for atom in atoms),
            residue_names=tuple(atom.residue.name for atom in atoms),
            residue_ids=tuple(int(atom.residue.resSeq) for atom in atoms),
            chain_ids=tuple(chains[atom.residue.chain.index] for atom in atoms),
            masses=tuple(_mass(atom) for atom in atoms),
            bonds=_kept_bonds(topology, indices),
        )
        return cls(tuple(indices), beads)


def load_topology(path: PathLike) -> mdtraj.Topology:
    """Read a topology from any file that MDTraj or ParmEd reads.

    Amber (``.prmtop``, ``.parm7``), CHARMM (``.psf``) and GROMACS (``.top``) files go through
    ParmEd; PDB, mmCIF, GRO, HDF5 and the rest through MDTraj.

    Parameters
    ----------
    path : path-like
        Topology file.

    Returns
    -------
    mdtraj.Topology
        Atoms, residues, chains and bonds.

    Raises
    ------
    DatasetError
        If the file is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise DatasetError(f"topology {path} does not exist")
    try:
        if Path(path).suffix.lower() in PARMED_SUFFIXES:
            return mdtraj.Topology.from_openmm(parmed.load_file(os.fspath(path)).topology)
        return mdtraj.load_topology(os.fspath(path))
    # Readers of a dozen formats raise whatever they stumble over.
    except Exception as error:
        raise DatasetError(
            f"topology {path} cannot be read ({type(error).__name__}: {error}); MDTraj and ParmEd "
            "read PDB, mmCIF, prmtop, PSF and GROMACS top, the format being chosen by the suffix. "
            "A GROMACS top that includes force fields must be preprocessed (gmx grompp -pp)"
        ) from error


def coarse_grain_trajectory(
    trajectory: PathLike | Sequence[PathLike],
    topology: mdtraj.Topology,
    mapping: CoarseGrainingMap,
    *,
    temperature: FloatOrQuantity,
    stride: int = 1,
    chunk_size: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> CGDataset:
    """Read a trajectory in chunks and keep the beads, centred and aligned to the first frame.

    Frames stay in order. Molecules broken over the edge of a periodic box are made whole.

    Parameters
    ----------
    trajectory : path-like or sequence of them
        Files that MDTraj reads, taken one after another.
    topology : mdtraj.Topology
        All-atom topology of the trajectory.
    mapping : CoarseGrainingMap
        Which atoms to keep.
    temperature : float or Quantity, K
        Temperature of the simulation.
    stride : int
        Keep every ``stride``-th frame of the whole.
    chunk_size : int
        Frames held in memory at a time.
    progress : callable, optional
        Called after every chunk with the number of frames read so far.

    Returns
    -------
    CGDataset
        Dataset with the SHA-256 of the trajectory; of several files, the SHA-256 of their
        hexadecimal SHA-256 values one after another.

    Raises
    ------
    DatasetError
        If a file is missing, unreadable or empty, has another number of atoms, has NaN frames, or
        has a periodic box in which the beads cannot be joined.
    InvalidInputError
        If ``stride`` or ``chunk_size`` is not positive.
    """
    if stride < 1 or chunk_size < 1:
        raise InvalidInputError(f"stride is {stride}, chunk_size {chunk_size}; both must be >= 1")
    paths = [trajectory] if isinstance(trajectory, str | os.PathLike) else list(trajectory)
    kept: list[npt.NDArray[np.float32]] = []
    reference: npt.NDArray[Any] | None = None
    n_read = 0
    for beads in atom_chunks(paths, topology, mapping.atom_indices, chunk_size=chunk_size):
        numbers = np.arange(n_read, n_read + len(beads))
        chosen = numbers % stride == 0
        n_read += len(beads)
        if chosen.any():
            check_finite(beads[chosen], frame_numbers=numbers[chosen])
            if reference is None:
                reference = center(beads[chosen][0].astype(np.float64))
            kept.append(kabsch_align(beads[chosen], reference).astype(np.float32))
        if progress is not None:
            progress(n_read)
    if not kept:
        raise DatasetError("the trajectory has no frames; give one with at least one frame")
    return CGDataset(
        np.concatenate(kept), mapping.topology, to_kelvin(temperature), _source_hash(paths)
    )


def _source_hash(paths: Sequence[PathLike]) -> str:
    hashes = [sha256_of_file(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _kept_bonds(topology: mdtraj.Topology, indices: list[int]) -> _Bonds:
    bead_of = {atom: bead for bead, atom in enumerate(indices)}
    pairs = {
        (min(i, j), max(i, j))
        for bond in topology.bonds
        if (i := bead_of.get(bond[0].index)) is not None
        and (j := bead_of.get(bond[1].index)) is not None
    }
    return tuple(sorted(pairs))


def _chain_names(topology: mdtraj.Topology) -> list[str]:
    """Return the chains' own names if they tell chains apart, else A, B, C, ... or numbers."""
    names = [chain.chain_id or "" for chain in topology.chains]
    if all(names) and len(set(names)) == len(names):
        return names
    if len(names) <= 26:
        return [chr(ord("A") + index) for index in range(len(names))]
    return [str(index + 1) for index in range(len(names))]


def _mass(atom: Any) -> float:
    if not atom.element.mass > 0.0:
        raise DatasetError(
            f"atom {atom} has no element, so its mass is unknown; give a topology with elements"
        )
    return float(atom.element.mass)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
