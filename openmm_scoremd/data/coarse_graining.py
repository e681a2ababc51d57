"""All-atom topologies and trajectories to beads: single atoms, or centres of several."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data._beads import BeadMasses, describe_beads
from openmm_scoremd.data._grouping import BeadRules, group_atoms, read_rules
from openmm_scoremd.data._presets import preset_beads, some
from openmm_scoremd.data._reading import AtomReader, BoxTreatment
from openmm_scoremd.data._sanity_checks import DuplicateFrames, check_beads
from openmm_scoremd.data.atoms import AtomTopology, load_topology
from openmm_scoremd.data.dataset import CGDataset, check_finite
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.geometry import center, kabsch_align
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import FloatOrQuantity, to_kelvin

__all__ = [
    "BeadMasses",
    "BeadRules",
    "CoarseGrainingMap",
    "coarse_grain_trajectory",
    "load_topology",
    "read_rules",
]

PathLike: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CoarseGrainingMap:
    """Which atoms become beads.

    Attributes
    ----------
    atom_indices : tuple of int
        Atoms that are read, as numbered in the source topology: the one that becomes each bead,
        or the atoms of the first bead, of the second one, ...
    topology : BeadTopology
        What the beads are.
    sizes : tuple of int
        Atoms of each bead; empty if all beads are single atoms.
    weights : tuple of float
        Share of each atom in the position of its bead; empty if all beads are single atoms.
    notes : tuple of str
        What was left out.
    """

    atom_indices: tuple[int, ...]
    topology: BeadTopology
    sizes: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_selection(
        cls, topology: mdtraj.Topology, selection: str, *, masses: BeadMasses | None = None
    ) -> CoarseGrainingMap:
        """Keep the atoms of a selection, in the order of the topology.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology, best from :func:`~openmm_scoremd.data.atoms.load_topology`.
        selection : str
            MDTraj selection, such as ``"name CA"``.
        masses : float, sequence or mapping of str to float, Da, optional
            One mass for all beads, one of each, or masses by bead name; those of the topology if
            not given.

        Raises
        ------
        InvalidInputError
            If the selection cannot be understood or matches nothing.
        DatasetError
            If an atom kept has no mass.
        """
        atoms = AtomTopology.from_mdtraj(topology)
        try:
            indices = atoms.select(selection)
        # The selection language raises whatever its parser or Python's compiler raises.
        except Exception as error:
            raise InvalidInputError(
                f"selection {selection!r} is not MDTraj selection language ({error}); "
                "an example is 'name CA and chainid 0'"
            ) from error
        if len(indices) == 0:
            raise InvalidInputError(
                f"selection {selection!r} matches none of the {topology.n_atoms} atoms; "
                f"names that exist: {some(sorted({atom.name for atom in topology.atoms}))}"
            )
        return cls.from_indices(atoms, indices, masses=masses)

    @classmethod
    def from_indices(
        cls, topology: mdtraj.Topology, indices: Sequence[int], *, masses: BeadMasses | None = None
    ) -> CoarseGrainingMap:
        """Keep these atoms, in this order.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        indices : sequence of int
            Atom indices, counted from 0.
        masses : float, sequence or mapping of str to float, Da, optional
            See :meth:`from_selection`.

        Raises
        ------
        InvalidInputError
            If there is no index, one is out of range, or one is given twice.
        DatasetError
            If an atom kept has no mass.
        """
        kept = [int(index) for index in indices]
        if not kept or len(set(kept)) != len(kept):
            raise InvalidInputError(f"atom indices are {kept}; give at least one, each only once")
        if not 0 <= min(kept) <= max(kept) < topology.n_atoms:
            raise InvalidInputError(
                f"atom indices go from {min(kept)} to {max(kept)}; "
                f"with {topology.n_atoms} atoms they must lie in 0..{topology.n_atoms - 1}"
            )
        atoms = AtomTopology.from_mdtraj(topology)
        names = [atoms.atom(index).name for index in kept]
        beads = describe_beads(atoms, [[index] for index in kept], names, masses)
        return cls(tuple(kept), beads)

    @classmethod
    def from_preset(
        cls, topology: mdtraj.Topology, preset: str, *, masses: BeadMasses | None = None
    ) -> CoarseGrainingMap:
        """Keep the atoms of a named set.

        ==================== ==============================================================
        preset               beads
        ==================== ==============================================================
        alanine-dipeptide    C of ACE; N, CA, C of ALA; N of NME
        backbone-cb          N, CA, CB, C, O of every amino acid, N, CA, C, O of glycine
        ca                   CA of every amino acid, bonded along each chain
        ==================== ==============================================================

        Amino acids count, whatever they are called, that a peptide bond joins to another; free
        ones are left out.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        preset : str
            One of the names above.
        masses : float, sequence or mapping of str to float, Da, optional
            See :meth:`from_selection`.

        Raises
        ------
        InvalidInputError
            If there is no such preset.
        DatasetError
            If the topology lacks an atom of the preset or has too many.
        """
        atoms = AtomTopology.from_mdtraj(topology)
        kept = preset_beads(atoms, preset)
        beads = describe_beads(atoms, [[index] for index in kept.atoms], kept.names, masses)
        return cls(tuple(kept.atoms), beads, notes=kept.notes)

    @classmethod
    def from_rules(
        cls,
        topology: mdtraj.Topology,
        rules: BeadRules,
        *,
        centre: Literal["mass", "geometry"] = "mass",
        masses: BeadMasses | None = None,
    ) -> CoarseGrainingMap:
        """Put a bead at the centre of several atoms.

        Beads are bonded where atoms of theirs are.

        Parameters
        ----------
        topology : mdtraj.Topology
            All-atom topology.
        rules : mapping of str to mapping of str to sequence of str
            Residue name to bead name to names of its atoms, as in ``{"ALA": {"BB": ["N", "CA",
            "C", "O"], "SC": ["CB"]}}``. The residue ``"*"`` is any amino acid that has no rule, the
            atom ``"*"`` any that no other bead of the residue names. Other residues are left out.
        centre : {"mass", "geometry"}
            Weights of atoms: their masses, or all the same.
        masses : float, sequence or mapping of str to float, Da, optional
            Masses of the beads; the sums over their atoms if not given.

        Raises
        ------
        InvalidInputError
            If ``masses`` do not fit.
        DatasetError
            If no residue has a bead, or an atom has no mass.
        """
        atoms = AtomTopology.from_mdtraj(topology)
        groups = group_atoms(atoms, rules)
        beads = describe_beads(atoms, groups.atoms, groups.names, masses)
        weights: list[float] = []
        for group in groups.atoms:
            of_atoms = atoms.masses[group] if centre == "mass" else np.ones(len(group))
            weights += (of_atoms / of_atoms.sum()).tolist()
        if not np.isfinite(weights).all():
            raise DatasetError(
                "an atom has no mass, so the centre of mass is unknown; give a topology with "
                "elements or masses, or centre='geometry' (--centre geometry)"
            )
        return cls(
            tuple(itertools.chain(*groups.atoms)),
            beads,
            sizes=tuple(len(group) for group in groups.atoms),
            weights=tuple(weights),
            notes=groups.notes,
        )

    def apply(self, positions: NDArray[Any]) -> NDArray[Any]:
        """Return the coordinates of the beads.

        Parameters
        ----------
        positions : (..., atoms, 3), nm
            All-atom coordinates.

        Returns
        -------
        (..., beads, 3), nm
            Coordinates of single atoms unchanged, of several their centre.

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
        return self._beads_of(positions[..., list(self.atom_indices), :])

    def _beads_of(self, atoms: NDArray[Any]) -> NDArray[Any]:
        """Return the beads of coordinates that hold only ``atom_indices``, in their order."""
        if not self.sizes:
            return atoms
        starts = np.cumsum((0, *self.sizes[:-1]))
        weighted = atoms * np.array(self.weights)[:, None]
        return np.asarray(np.add.reduceat(weighted, starts, axis=-2))


def coarse_grain_trajectory(
    trajectory: PathLike | Sequence[PathLike],
    topology: mdtraj.Topology,
    mapping: CoarseGrainingMap,
    *,
    temperature: FloatOrQuantity,
    stride: int = 1,
    chunk_size: int = 1000,
    box: BoxTreatment = "join",
    on_problem: Literal["raise", "warn"] = "raise",
    progress: Callable[[int], None] | None = None,
) -> CGDataset:
    """Read a trajectory in chunks and keep the beads, centred and aligned to the first frame.

    Frames stay in order. Molecules broken over the edge of a periodic box are made whole; several
    ones are then put side by side, where their beads come nearest. Before frames are believed,
    lengths of bonds are compared with chemistry, boxes with bonds, frames with each other, and the
    first half of the frames with the second.

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
    box : {"join", "ignore"}
        Make molecules whole along their bonds, or take coordinates as they are: molecules are
        whole, or the cell means nothing.
    on_problem : {"raise", "warn"}
        What to do about data that cannot be right.
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
        has a periodic box in which the beads cannot be joined; with ``on_problem="raise"`` also if
        lengths, cells or frames cannot be right.
    InvalidInputError
        If ``stride`` or ``chunk_size`` is not positive, or there is only one bead.
    """
    if stride < 1 or chunk_size < 1:
        raise InvalidInputError(f"stride is {stride}, chunk_size {chunk_size}; both must be >= 1")
    if mapping.topology.n_beads < 2:
        raise InvalidInputError(
            f"the only bead is {mapping.topology.bead_labels[0]}; one bead has no internal "
            "coordinates to learn: choose at least two"
        )
    paths = [trajectory] if isinstance(trajectory, str | os.PathLike) else list(trajectory)
    problems = _Problems(on_problem)
    reader = AtomReader(topology, mapping.atom_indices, box=box, on_problem=problems.add)
    duplicates = DuplicateFrames()
    kept: list[NDArray[np.float32]] = []
    reference: NDArray[Any] | None = None
    n_read, starts = 0, list[int]()
    for path in paths:
        starts.append(n_read)
        for atoms in reader.chunks(path, chunk_size):
            numbers = np.arange(n_read, n_read + len(atoms))
            chosen = numbers % stride == 0
            n_read += len(atoms)
            if chosen.any():
                beads = mapping._beads_of(atoms[chosen])
                check_finite(beads, frame_numbers=numbers[chosen])
                duplicates.add(beads, numbers[chosen])
                if reference is None:
                    reference = center(beads[0].astype(np.float64))
                kept.append(kabsch_align(beads, reference).astype(np.float32))
            if progress is not None:
                progress(n_read)
    if not kept:
        raise DatasetError("the trajectory has no frames; give one with at least one frame")
    duplicates.check(lambda number: _frame_name(number, starts, paths), problems.add)
    positions = np.concatenate(kept)
    check_beads(positions, mapping.topology, problems.add)
    boxes = [f"box: {treatment}" for treatment in dict.fromkeys(reader.boxes.values())]
    return CGDataset(
        positions,
        mapping.topology,
        to_kelvin(temperature),
        _source_hash(paths),
        notes=(*mapping.notes, *boxes, *problems.found),
    )


class _Problems:
    """Raises what is wrong with data, or says and keeps it."""

    def __init__(self, on_problem: Literal["raise", "warn"]) -> None:
        self._raises = on_problem == "raise"
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        if self._raises:
            raise DatasetError(f"{problem} (--force, on_problem='warn', goes on all the same)")
        logger.warning("%s", problem)
        self.found.append(f"forced: {problem}")


def _frame_name(number: int, starts: Sequence[int], paths: Sequence[PathLike]) -> str:
    file = bisect.bisect_right(starts, number) - 1
    return f"frame {number - starts[file]} of {os.path.basename(paths[file])}"


def _source_hash(paths: Sequence[PathLike]) -> str:
    hashes = [sha256_of_file(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
