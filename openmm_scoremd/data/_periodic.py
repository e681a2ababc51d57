"""Molecules broken over the edge of a periodic box, made whole along their bonds."""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import mdtraj
import numpy as np
import numpy.typing as npt

from openmm_scoremd.errors import DatasetError


@dataclasses.dataclass(frozen=True)
class BondTree:
    """The bonds that lead from one atom of a molecule to all the others.

    Attributes
    ----------
    atom_indices : tuple of int
        Atoms of the molecule, ascending, as numbered in the source topology.
    steps : tuple of (int, int)
        Pairs (atom placed, atom to place), as positions in ``atom_indices``, in walking order.
    """

    atom_indices: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]

    @classmethod
    def from_topology(cls, topology: mdtraj.Topology, atoms: Sequence[int]) -> BondTree:
        """Walk the molecule that holds all of ``atoms``.

        Raises
        ------
        DatasetError
            If no chain of bonds joins the atoms: their relative position in a periodic box is
            then ambiguous.
        """
        walked = _walk(topology, atoms[0])
        indices = tuple(sorted({atoms[0], *(placed for _, placed in walked)}))
        strays = [atom for atom in atoms if atom not in set(indices)]
        if strays:
            raise DatasetError(
                f"the trajectory has a periodic box, and no bonds of the topology join atoms "
                f"{atoms[0]} and {strays[0]}, so it is not known which images belong together; "
                "give a topology with bonds, or make the molecules whole first "
                "(mdtraj.Trajectory.image_molecules), set unitcell_vectors to None and save"
            )
        local = {atom: place for place, atom in enumerate(indices)}
        return cls(indices, tuple((local[a], local[b]) for a, b in walked))

    def make_whole(
        self, positions: npt.NDArray[Any], box: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Put every atom into the periodic image nearest to the atom it is bonded to.

        Exact for any cell whose heights exceed twice the longest bond.

        Parameters
        ----------
        positions : (frames, atoms, 3), nm
            Coordinates of ``atom_indices``.
        box : (frames, 3, 3), nm
            Box vectors, one per row.

        Returns
        -------
        (frames, atoms, 3), nm
            Coordinates of the whole molecule.
        """
        cell = box.astype(np.float64)
        to_fractions = np.linalg.inv(cell)
        whole = positions.astype(np.float64)
        for placed, moving in self.steps:
            offset = (whole[:, moving] - whole[:, placed])[:, None]
            images = np.round(offset @ to_fractions)
            whole[:, moving] -= (images @ cell)[:, 0]
        return whole


def _walk(topology: mdtraj.Topology, start: int) -> list[tuple[int, int]]:
    """Return the bonds of a breadth-first walk from one atom."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    for bond in topology.bonds:
        neighbours[bond[0].index].append(bond[1].index)
        neighbours[bond[1].index].append(bond[0].index)
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
