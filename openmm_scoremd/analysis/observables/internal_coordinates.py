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
    "bond_angles",
    "bond_labels",
    "bond_lengths",
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

    Parameters
    ----------
    topology : BeadTopology
        Beads named N, CA and C, per residue.

    Returns
    -------
    BackboneDihedrals
        Quadruples of all pairs.

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
    return np.stack(
        [geometry.dihedrals(frames, quadruples.phi), geometry.dihedrals(frames, quadruples.psi)],
        axis=-1,
    ).astype(np.float64, copy=False)


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
    lengths = geometry.distances(frames, np.array(topology.bonds, dtype=np.int64))
    return lengths.astype(np.float64, copy=False)


def bond_labels(topology: BeadTopology) -> tuple[str, ...]:
    """Return a name such as ``"C1-N2"`` (bead name and residue number) for each bond."""
    beads = [
        f"{name}{number}" for name, number in zip(topology.names, topology.residue_ids, strict=True)
    ]
    return tuple(f"{beads[i]}-{beads[j]}" for i, j in topology.bonds)


def bond_angles(positions: ArrayLike, topology: BeadTopology) -> FloatArray:
    """Compute the angles between bonds that share a bead.

    Parameters
    ----------
    positions : (..., beads, 3) array_like
        Positions in nm.
    topology : BeadTopology
        The beads.

    Returns
    -------
    (..., angles) ndarray
        Angles in radians, in the order of :func:`angle_triples`.

    Raises
    ------
    InvalidInputError
        If the positions are empty, not finite or of another number of beads, or no two bonds share
        a bead.
    """
    triples = angle_triples(topology)
    frames = _checked_positions(positions, topology)
    return geometry.angles(frames, triples).astype(np.float64, copy=False)


def angle_triples(topology: BeadTopology) -> IndexArray:
    """Return ``(angles, 3)`` bead indices, the shared bead in the middle.

    Raises
    ------
    InvalidInputError
        If no two bonds share a bead.
    """
    neighbours: list[list[int]] = [[] for _ in range(topology.n_beads)]
    for i, j in topology.bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    triples = [
        (first, middle, last)
        for middle, ends in enumerate(neighbours)
        for first in sorted(ends)
        for last in sorted(ends)
        if first < last
    ]
    if not triples:
        raise InvalidInputError(
            f"no two of the {len(topology.bonds)} bonds share a bead; angles need two such bonds"
        )
    return np.array(triples, dtype=np.int64)


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
    links = _peptide_links(topology, residues)
    phi = {b: _phi_quadruple(residues[a], residues[b]) for a, b in links if len(residues[b]) == 3}
    psi = {a: _psi_quadruple(residues[a], residues[b]) for a, b in links if len(residues[a]) == 3}
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
    residues: dict[tuple[str, int], _Residue] = {}
    for index, name in enumerate(topology.names):
        key = (topology.chain_ids[index], topology.residue_ids[index])
        beads = residues.setdefault(key, {})
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


def _phi_quadruple(before: _Residue, residue: _Residue) -> tuple[int, ...]:
    return (before["C"], residue["N"], residue["CA"], residue["C"])


def _psi_quadruple(residue: _Residue, after: _Residue) -> tuple[int, ...]:
    return (residue["N"], residue["CA"], residue["C"], after["N"])


def _label(topology: BeadTopology, bead: int) -> str:
    return f"{topology.residue_names[bead]} {topology.residue_ids[bead]}"
