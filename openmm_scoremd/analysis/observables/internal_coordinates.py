"""Internal coordinates of bead frames, found from the bead topology.

Positions are ``(frames, beads, 3)`` or ``(replicas, frames, beads, 3)`` in nm; results keep the
leading axes and are float64.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd import geometry
from openmm_scoremd.analysis.statistics.grids import FloatArray, checked_array
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology

__all__ = [
    "BackboneDihedrals",
    "angle_triples",
    "backbone_dihedrals",
    "bond_lengths",
    "bonded_quadruples",
    "phi_psi",
    "phi_psi_labels",
]

IndexArray: TypeAlias = NDArray[np.int64]
_Residue: TypeAlias = dict[str, int]  # bead name to bead index


class BackboneDihedrals(NamedTuple):
    """Bead quadruples of paired backbone dihedrals.

    Attributes
    ----------
    phi, psi : (pairs, 4) ndarray of int
        Bead indices; row ``k`` of both makes one Ramachandran plane.
    """

    phi: IndexArray
    psi: IndexArray


class _Pair(NamedTuple):
    label: str
    phi: tuple[int, ...]
    psi: tuple[int, ...]


def backbone_dihedrals(topology: BeadTopology) -> BackboneDihedrals:
    """Find the phi/psi pairs of a backbone.

    φ is C(i−1) N(i) CA(i) C(i) and ψ is N(i) CA(i) C(i) N(i+1). A residue that has both makes a
    pair. If no residue has both (two residues without caps), the ψ before and the φ after each
    peptide bond make a pair, as the paper does for dipeptides. Neighbours follow from C-N bonds;
    a topology without any bonds is read in the order of residue numbers.

    Raises
    ------
    InvalidInputError
        If there is no pair, or a residue has two backbone beads of one name.
    """
    pairs = _find_pairs(topology)
    if not pairs:
        raise InvalidInputError(
            f"no phi/psi pair among the beads {' '.join(topology.names)}; it takes beads named "
            "N, CA and C of bonded residues. Compare bonds or distances instead"
        )
    return BackboneDihedrals(
        phi=np.array([pair.phi for pair in pairs], dtype=np.int64),
        psi=np.array([pair.psi for pair in pairs], dtype=np.int64),
    )


def phi_psi_labels(topology: BeadTopology) -> tuple[str, ...]:
    """Return a name such as ``"ALA 2"`` for each phi/psi pair; empty where there is no pair.

    Raises
    ------
    InvalidInputError
        If a residue has two backbone beads of one name.
    """
    return tuple(pair.label for pair in _find_pairs(topology))


def phi_psi(positions: ArrayLike, topology: BeadTopology) -> FloatArray:
    """Compute the backbone dihedrals of every frame.

    Parameters
    ----------
    positions : (..., beads, 3) array_like
        Positions in nm.
    topology : BeadTopology
        The beads.

    Returns
    -------
    (..., pairs, 2) ndarray
        φ and ψ in radians, in [−π, π], for the pairs of :func:`backbone_dihedrals`.

    Raises
    ------
    InvalidInputError
        If the positions are empty, not finite or of another number of beads, or the topology has
        no pair.
    """
    quadruples = backbone_dihedrals(topology)
    frames = _checked_positions(positions, topology)
    return np.stack([geometry.dihedrals(frames, four) for four in quadruples], axis=-1)


def bond_lengths(positions: ArrayLike, topology: BeadTopology) -> FloatArray:
    """Compute the bond lengths of every frame.

    Parameters
    ----------
    positions : (..., beads, 3) array_like
        Positions in nm.
    topology : BeadTopology
        The beads; its bonds give the order.

    Returns
    -------
    (..., bonds) ndarray
        Lengths in nm.

    Raises
    ------
    InvalidInputError
        If the positions are empty, not finite or of another number of beads, or there are no bonds.
    """
    if not topology.bonds:
        raise InvalidInputError("the bead topology has no bonds; give it bonds to compare lengths")
    frames = _checked_positions(positions, topology)
    return geometry.distances(frames, np.array(topology.bonds)).astype(np.float64, copy=False)


def angle_triples(topology: BeadTopology) -> IndexArray:
    """Return ``(angles, 3)`` beads of bonds that share one, the shared bead in the middle."""
    triples = [
        (first, middle, last)
        for middle, ends in enumerate(_neighbours(topology))
        for first in ends
        for last in ends
        if first < last
    ]
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def bonded_quadruples(topology: BeadTopology) -> IndexArray:
    """Return ``(dihedrals, 4)`` beads of three bonds in a row."""
    neighbours = _neighbours(topology)
    quadruples = [
        (a, b, c, d)
        for b, c in topology.bonds
        for a in neighbours[b]
        for d in neighbours[c]
        if a not in (c, d) and d != b
    ]
    return np.array(quadruples, dtype=np.int64).reshape(-1, 4)


def _neighbours(topology: BeadTopology) -> list[list[int]]:
    found: list[set[int]] = [set() for _ in range(topology.n_beads)]
    for i, j in topology.bonds:
        found[i].add(j)
        found[j].add(i)
    return [sorted(beads) for beads in found]


def _checked_positions(positions: ArrayLike, topology: BeadTopology) -> FloatArray:
    frames = checked_array(positions, "positions", trailing=2)
    if frames.shape[-2:] != (topology.n_beads, 3):
        raise InvalidInputError(
            f"positions have shape {frames.shape}; with this topology they must be "
            f"(frames, {topology.n_beads}, 3) or (replicas, frames, {topology.n_beads}, 3)"
        )
    return frames


def _find_pairs(topology: BeadTopology) -> list[_Pair]:
    residues = _backbone_residues(topology)
    phi, psi, links = {}, {}, _peptide_links(topology, residues)
    for a, b in links:
        before, after = residues[a], residues[b]
        if len(after) == 3:
            phi[b] = (before["C"], after["N"], after["CA"], after["C"])
        if len(before) == 3:
            psi[a] = (before["N"], before["CA"], before["C"], after["N"])
    within = [
        _Pair(_label(topology, phi[key][1]), phi[key], psi[key]) for key in sorted(phi.keys() & psi)
    ]
    return within or [
        _Pair(f"{_label(topology, psi[a][1])} to {_label(topology, phi[b][1])}", phi[b], psi[a])
        for a, b in links
        if a in psi and b in phi
    ]


def _backbone_residues(topology: BeadTopology) -> list[_Residue]:
    """Return the beads N, CA and C of every residue, in the order of the beads."""
    residues: dict[int, _Residue] = {}
    for index, name in enumerate(topology.names):
        beads = residues.setdefault(topology.residue_indices[index], {})
        if name in beads:
            raise InvalidInputError(
                f"residue {_label(topology, index)} has two beads named {name}; "
                "backbone dihedrals need one N, one CA and one C per residue"
            )
        if name in ("N", "CA", "C"):
            beads[name] = index
    return list(residues.values())


def _peptide_links(topology: BeadTopology, residues: list[_Residue]) -> list[tuple[int, int]]:
    """Return pairs (a, b) of residues where C of a is bonded to N of b."""
    if not topology.bonds:
        return [(a, a + 1) for a in range(len(residues) - 1) if _consecutive(topology, residues, a)]
    carbons = {beads["C"]: a for a, beads in enumerate(residues) if "C" in beads}
    nitrogens = {beads["N"]: b for b, beads in enumerate(residues) if "N" in beads}
    return [
        (carbons[i], nitrogens[j])
        for bond in topology.bonds
        for i, j in (bond, bond[::-1])
        if i in carbons and j in nitrogens and carbons[i] != nitrogens[j]
    ]


def _consecutive(topology: BeadTopology, residues: list[_Residue], a: int) -> bool:
    carbon, nitrogen = residues[a].get("C"), residues[a + 1].get("N")
    if carbon is None or nitrogen is None:
        return False
    same_chain = topology.chain_ids[carbon] == topology.chain_ids[nitrogen]
    return same_chain and topology.residue_ids[nitrogen] - topology.residue_ids[carbon] == 1


def _label(topology: BeadTopology, bead: int) -> str:
    return topology.residue_labels[bead]
