"""Bonds of an all-atom topology: those of its file, and those that its file leaves to be guessed.

PDB, mmCIF and GRO files hold few bonds or none. MDTraj then bonds neighbours along a chain whatever
lies between them, and knows only some residue names. Here names say what may be bonded, and the
distances of a frame what is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import mdtraj
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from openmm_scoremd.data._chemistry import (
    CA_DISTANCES,
    CARBONYL_OXYGENS,
    LONGEST_PEPTIDE_BOND,
    bonding_distance,
    is_amino_acid,
    is_cap,
)
from openmm_scoremd.geometry import Array, nearest_image

FloatArray = NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]

#: Longest bond between a nucleotide and the next, nm; see ``LONGEST_PEPTIDE_BOND``.
_LONGEST_PHOSPHATE_BOND = 0.25
_LINKS = {("C", "N"): LONGEST_PEPTIDE_BOND, ("O3'", "P"): _LONGEST_PHOSPHATE_BOND}

#: A C and an N of residues that do not follow each other are bonded when nearer than this, nm.
_RING_CLOSURE = 0.16


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One frame of all atoms.

    Attributes
    ----------
    positions : (atoms, 3), nm
        Coordinates.
    cell : (3, 3), nm, or None
        Box vectors, one per row.
    """

    positions: FloatArray
    cell: FloatArray | None = None

    def distance(self, first: int, second: int) -> float:
        """Return the distance of two atoms in nm, in the nearest periodic image."""
        return float(self.distances([first], [second])[0, 0])

    def distances(self, first: Sequence[int], second: Sequence[int]) -> FloatArray:
        """Return the distances (first, second) of two sets of atoms in nm."""
        offsets: Array = self.positions[list(second)] - self.positions[list(first)][:, None]
        if self.cell is not None:
            offsets = nearest_image(offsets, self.cell, inverse=self._inverse)
        return np.asarray(np.sqrt((offsets**2).sum(axis=-1)))

    @functools.cached_property
    def _inverse(self) -> Array | None:
        return None if self.cell is None else np.linalg.inv(self.cell)


def complete_bonds(
    topology: mdtraj.Topology, known: set[Pair], symbols: list[str], frame: Frame
) -> set[Pair]:
    """Return the bonds of a topology whose reader had to guess them.

    Parameters
    ----------
    topology : mdtraj.Topology
        Atoms.
    known : set of (int, int)
        Bonds of the file and of MDTraj's templates.
    symbols : list of str
        Element of every atom, empty where unknown.
    frame : Frame
        A frame of these atoms.
    """
    bonds = _without_gaps(known, topology, frame)
    for residue in topology.residues:
        if is_amino_acid(residue):
            bonds |= _backbone_bonds(residue, frame)
    bonded = {index for pair in bonds for index in pair}
    for residue in topology.residues:
        bonds |= _bonds_of_lone_atoms(residue, bonded, symbols, frame)
    return bonds | _links_along_chains(bonds, topology, frame)


def bond_pairs(topology: mdtraj.Topology) -> set[Pair]:
    """Return the bonds as atom indices, the smaller one first."""
    return {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds if a is not b}


def _without_gaps(bonds: set[Pair], topology: mdtraj.Topology, frame: Frame) -> set[Pair]:
    """Drop bonds between residues of a chain that lack what lies between them."""
    links, gaps = 0, set()
    for pair in bonds:
        first, second = (topology.atom(index) for index in pair)
        longest = _LINKS.get((first.name, second.name))
        if longest is not None and second.residue.index == first.residue.index + 1:
            links += 1
            if frame.distance(*pair) > longest:
                gaps.add(pair)
    # Where most are too long, the coordinates are no structure: the names know better.
    return bonds - gaps if len(gaps) <= links / 2 else bonds


def _backbone_bonds(residue: Any, frame: Frame) -> set[Pair]:
    atoms = {atom.name: atom.index for atom in residue.atoms}
    pairs = [("N", "CA"), ("CA", "C"), ("CA", "CB")]
    pairs += [("C", oxygen) for oxygen in CARBONYL_OXYGENS]
    return {
        (min(atoms[a], atoms[b]), max(atoms[a], atoms[b]))
        for a, b in pairs
        if a in atoms and b in atoms and frame.distance(atoms[a], atoms[b]) < LONGEST_PEPTIDE_BOND
    }


def _bonds_of_lone_atoms(
    residue: Any, bonded: set[int], symbols: list[str], frame: Frame
) -> set[Pair]:
    """Bond the atoms that no template knows to those of their residue that they touch."""
    atoms = [atom.index for atom in residue.atoms if symbols[atom.index]]
    lone = [index for index in atoms if index not in bonded]
    if not lone or len(atoms) < 2:
        return set()
    near = frame.distances(lone, atoms)
    limits = [[bonding_distance(symbols[i], symbols[j]) for j in atoms] for i in lone]
    return {
        (min(lone[row], atoms[column]), max(lone[row], atoms[column]))
        for row, column in np.argwhere(near < limits)
        if atoms[column] != lone[row] and {symbols[lone[row]], symbols[atoms[column]]} != {"H"}
    }


def _links_along_chains(bonds: set[Pair], topology: mdtraj.Topology, frame: Frame) -> set[Pair]:
    """Bond C to N of the next residue, CA to CA where there is neither, and ends of rings."""
    ends = _open_ends(bonds, topology)
    found: set[Pair] = set()
    for before, after in itertools.pairwise(topology.residues):
        if before.chain is not after.chain:
            continue
        carbon, nitrogen = ends["C"].get(before.index), ends["N"].get(after.index)
        if carbon is not None and nitrogen is not None:
            if frame.distance(carbon, nitrogen) < LONGEST_PEPTIDE_BOND:
                found.add((carbon, nitrogen))
        elif before.index in ends["CA"] and after.index in ends["CA"]:
            pair = ends["CA"][before.index], ends["CA"][after.index]
            if CA_DISTANCES[0] < frame.distance(*pair) < CA_DISTANCES[1]:
                found.add(pair)
    taken = {index for pair in found for index in pair}
    carbons = [index for index in ends["C"].values() if index not in taken]
    nitrogens = [index for index in ends["N"].values() if index not in taken]
    return found | _ring_closures(carbons, nitrogens, topology, frame)


def _open_ends(bonds: set[Pair], topology: mdtraj.Topology) -> dict[str, dict[int, int]]:
    """Return C and N without a peptide bond, and CA of residues with neither, by residue."""
    linked = set()
    for pair in bonds:
        first, second = (topology.atom(index) for index in pair)
        if {first.name, second.name} == {"C", "N"} and first.residue is not second.residue:
            linked |= {*pair}
    ends: dict[str, dict[int, int]] = defaultdict(dict)
    for residue in topology.residues:
        atoms = {atom.name: atom.index for atom in residue.atoms}
        if not (is_amino_acid(residue) or is_cap(residue)):
            continue
        for name in ("C", "N"):
            if name in atoms and atoms[name] not in linked:
                ends[name][residue.index] = atoms[name]
        if "CA" in atoms and not {"C", "N"} & {*atoms}:
            ends["CA"][residue.index] = atoms["CA"]
    return ends


def _ring_closures(
    carbons: list[int], nitrogens: list[int], topology: mdtraj.Topology, frame: Frame
) -> set[Pair]:
    if not carbons or not nitrogens:
        return set()
    distances, nearest = cKDTree(frame.positions[nitrogens]).query(frame.positions[carbons])
    return {
        (min(carbon, nitrogens[k]), max(carbon, nitrogens[k]))
        for carbon, k, distance in zip(carbons, nearest, distances, strict=True)
        if distance < _RING_CLOSURE
        and topology.atom(carbon).residue is not topology.atom(nitrogens[k]).residue
    }
