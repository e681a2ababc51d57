"""Molecules broken over the edge of a periodic box, made whole along their bonds."""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.errors import DatasetError
from openmm_scoremd.geometry import nearest_image

FloatArray = NDArray[np.float64]

#: Cells up to this length, nm, are placeholders: CRYST1 of 1 A in PDB files without a crystal.
_PLACEHOLDER = 0.1001

#: Atoms of a molecule, evenly taken, among which its nearest neighbour is looked for.
_MOST_CONTACTS = 300


def usable_cell(trajectory: mdtraj.Trajectory) -> FloatArray | None:
    """Return the box vectors of the first frame in nm, None without a box or for a placeholder.

    Raises
    ------
    DatasetError
        If lengths and angles are no cell.
    """
    lengths = trajectory.unitcell_lengths
    if lengths is None or not (lengths[0] > 0.0).all() or (lengths[0] < _PLACEHOLDER).all():
        return None
    cell: FloatArray = trajectory.unitcell_vectors[0].astype(np.float64)
    if not np.isfinite(cell).all() or np.linalg.det(cell) < 1e-6:
        shown = [
            " ".join(f"{value:.4g}" for value in values[0])
            for values in (lengths, trajectory.unitcell_angles)
        ]
        raise DatasetError(
            f"the periodic cell of its first frame is impossible: lengths {shown[0]} nm, angles "
            f"{shown[1]} degrees (CHARMM writes triclinic cells to DCD files in a form of its own, "
            "which readers take for this); if its molecules are whole, have the cell ignored with "
            "--whole (box='ignore'), else convert it with the program that wrote it"
        )
    return cell


def cell_heights(cells: FloatArray) -> FloatArray:
    """Return the distances (..., 3) between opposite faces of cells (..., 3, 3), nm."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cells), axis=-2))


@dataclasses.dataclass(frozen=True)
class Molecules:
    """The molecules that hold the atoms kept, and the bonds that lead through each of them.

    Attributes
    ----------
    atom_indices : tuple of int
        All atoms of these molecules, ascending, as numbered in the source topology.
    steps : tuple of (int, int)
        Pairs (atom placed, atom to place), as positions in ``atom_indices``, in walking order.
    kept : tuple of tuple of int
        For every molecule the atoms kept, as positions in ``atom_indices``.
    """

    atom_indices: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    kept: tuple[tuple[int, ...], ...]

    @classmethod
    def from_topology(cls, topology: mdtraj.Topology, atoms: Sequence[int]) -> Molecules:
        """Find the molecules of ``atoms``.

        Raises
        ------
        DatasetError
            If most of the atoms have no bonds, so that nothing says which images belong together.
        """
        neighbours: dict[int, list[int]] = defaultdict(list)
        for first, second in topology.bonds:
            neighbours[first.index].append(second.index)
            neighbours[second.index].append(first.index)
        walks, seen, groups = [], set[int](), []
        for atom in atoms:
            if atom not in seen:
                walk = _walk(neighbours, atom)
                members = {atom, *(placed for _, placed in walk)}
                walks += walk
                seen |= members
                groups.append([index for index in atoms if index in members])
        lone = [group[0] for group in groups if not neighbours[group[0]]]
        if len(lone) > max(1, len(atoms) // 2):
            raise DatasetError(
                f"the trajectory has a periodic box, and {len(lone)} of the {len(atoms)} atoms "
                f"kept have no bonds in the topology (the first is {topology.atom(lone[0])}), so "
                "it is not known which images belong together; give a topology with bonds, or "
                "make the molecules whole first and say so with --whole (box='ignore')"
            )
        indices = tuple(sorted(seen))
        local = {atom: place for place, atom in enumerate(indices)}
        return cls(
            indices,
            tuple((local[a], local[b]) for a, b in walks),
            tuple(tuple(local[atom] for atom in group) for group in groups),
        )

    def make_whole(self, positions: NDArray[Any], cells: NDArray[Any]) -> FloatArray:
        """Put every atom into the periodic image nearest to the atom it is bonded to.

        Further molecules go where their atoms kept come nearest to those of molecules placed
        before. Exact for any cell whose heights exceed twice the longest bond.

        Parameters
        ----------
        positions : (frames, atoms, 3), nm
            Coordinates of ``atom_indices``.
        cells : (frames, 3, 3), nm
            Box vectors, one per row.

        Returns
        -------
        (frames, atoms, 3), nm
            Coordinates of whole molecules.
        """
        whole, vectors = positions.astype(np.float64), cells.astype(np.float64)
        inverse = np.linalg.inv(vectors)
        for placed, moving in self.steps:
            offset = whole[:, moving] - whole[:, placed]
            whole[:, moving] = whole[:, placed] + nearest_image(offset, vectors, inverse=inverse)
        if len(self.kept) > 1:
            for frame, cell in zip(whole, vectors, strict=True):
                self._bring_together(frame, cell)
        return whole

    def longest_step(self, whole: FloatArray) -> float:
        """Return the longest bond of whole molecules in any frame, nm; 0 without bonds."""
        if not self.steps:
            return 0.0
        first, second = np.array(self.steps).T
        return float(np.linalg.norm(whole[:, second] - whole[:, first], axis=-1).max())

    def _bring_together(self, frame: FloatArray, cell: FloatArray) -> None:
        members = self._members()
        waiting, placed = list(range(1, len(self.kept))), list(self.kept[0])
        while waiting:
            shifts = [_shift_to(frame[list(self.kept[k])], frame[placed], cell) for k in waiting]
            nearest = min(range(len(waiting)), key=lambda k: shifts[k][0])
            molecule = waiting.pop(nearest)
            frame[members[molecule]] += shifts[nearest][1]
            placed += self.kept[molecule]

    def _members(self) -> list[list[int]]:
        """Return all atoms of every molecule, as positions in ``atom_indices``."""
        owner = {atoms[0]: k for k, atoms in enumerate(self.kept)}
        for placed, moving in self.steps:
            owner[moving] = owner[placed]
        members: list[list[int]] = [[] for _ in self.kept]
        for atom, molecule in owner.items():
            members[molecule].append(atom)
        return members


def _shift_to(moving: FloatArray, placed: FloatArray, cell: FloatArray) -> tuple[float, FloatArray]:
    """Return the smallest distance of any image of one set to another, and the way to it."""
    some_moving = moving[:: -(-len(moving) // _MOST_CONTACTS)]
    some_placed = placed[:: -(-len(placed) // _MOST_CONTACTS)]
    offsets = (some_moving[:, None] - some_placed[None]).reshape(-1, 3)
    images = nearest_image(offsets, cell)
    squares = (images**2).sum(axis=-1)
    nearest = int(squares.argmin())
    return float(squares[nearest]), images[nearest] - offsets[nearest]


def _walk(neighbours: dict[int, list[int]], start: int) -> list[tuple[int, int]]:
    """Return the bonds of a breadth-first walk from one atom."""
    walked: list[tuple[int, int]] = []
    seen, waiting = {start}, deque([start])
    while waiting:
        atom = waiting.popleft()
        for other in neighbours[atom]:
            if other not in seen:
                seen.add(other)
                waiting.append(other)
                walked.append((atom, other))
    return walked
