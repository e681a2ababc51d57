"""What beads are: residues, chains, masses and bonds, from the atoms they stand for."""

from __future__ import annotations

import itertools
import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from openmm_scoremd.data._presets import peptide_links, some
from openmm_scoremd.data.atoms import AtomTopology
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.topology import BeadTopology

#: One mass for all beads, one of each, or masses by bead name; dalton.
BeadMasses: TypeAlias = float | Sequence[float] | Mapping[str, float]

_Bonds: TypeAlias = tuple[tuple[int, int], ...]


def describe_beads(
    topology: AtomTopology,
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    masses: BeadMasses | None,
) -> BeadTopology:
    """Return the topology of beads that stand for groups of atoms.

    Parameters
    ----------
    topology : AtomTopology
        All atoms.
    groups : sequence of sequence of int
        Atoms of every bead; its residue is that of the first one.
    names : sequence of str
        Of the beads.
    masses : float, sequence or mapping of str to float, Da, or None
        What the topology does not know, or shall not be asked for.

    Raises
    ------
    InvalidInputError
        If masses are given for other beads.
    DatasetError
        If a bead has no mass.
    """
    residues = [topology.atom(group[0]).residue for group in groups]
    order = {index: k for k, index in enumerate(dict.fromkeys(r.index for r in residues))}
    return BeadTopology(
        names=tuple(names),
        elements=tuple(_element(topology, group) for group in groups),
        residue_names=tuple(residue.name for residue in residues),
        residue_ids=tuple(int(residue.resSeq) for residue in residues),
        chain_ids=tuple(_chain_ids(topology, residues)),
        masses=_masses(topology, groups, names, masses),
        bonds=_bonds(topology, groups),
        insertion_codes=tuple(topology.insertion_codes[residue.index] for residue in residues),
        residue_indices=tuple(order[residue.index] for residue in residues),
    )


def _element(topology: AtomTopology, group: Sequence[int]) -> str:
    element = topology.atom(group[0]).element
    return str(element.symbol) if len(group) == 1 and element.mass > 0.0 else ""


def _masses(
    topology: AtomTopology,
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    given: BeadMasses | None,
) -> tuple[float, ...]:
    masses = [float(topology.masses[list(group)].sum()) for group in groups]
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise InvalidInputError(
                f"masses are given for {some(unknown)}; the beads are {some(sorted({*names}))}"
            )
        masses = [given.get(name, mass) for name, mass in zip(names, masses, strict=True)]
    elif given is not None:
        listed = [given] if isinstance(given, int | float) else list(given)
        if len(listed) not in (1, len(groups)):
            raise InvalidInputError(
                f"{len(listed)} masses for {len(groups)} beads; give one for all, one of each, or "
                "masses by bead name"
            )
        masses = listed * len(groups) if len(listed) == 1 else listed
    unknown = [n for n, mass in zip(names, masses, strict=True) if not 0.0 < mass < math.inf]
    if unknown:
        counted = [f"{name} ({count})" for name, count in Counter(unknown).items()]
        example = ",".join(f"{name}=72" for name in [*dict.fromkeys(unknown)][:3])
        raise DatasetError(
            f"no mass is known for the beads {some(counted)}: the topology has neither masses nor "
            f"certain elements for them; give masses in dalton, such as --masses {example}"
        )
    return tuple(float(mass) for mass in masses)


def _bonds(topology: AtomTopology, groups: Sequence[Sequence[int]]) -> _Bonds:
    """Bond beads whose atoms are bonded, and CA beads across a peptide bond that is not kept."""
    bead_of = {atom: bead for bead, group in enumerate(groups) for atom in group}
    pairs = {
        tuple(sorted((bead_of[a.index], bead_of[b.index])))
        for a, b in topology.bonds
        if a.index in bead_of and b.index in bead_of and bead_of[a.index] != bead_of[b.index]
    }
    carbons = {}
    for bead, group in enumerate(groups):
        atom = topology.atom(group[0])
        if len(group) == 1 and atom.name == "CA":
            kept = {other.name for other in atom.residue.atoms if other.index in bead_of}
            carbons[atom.residue.index] = bead, kept
    for first, linked in peptide_links(topology).items():
        for second in linked:
            if {first, second} <= {*carbons} and first < second:
                (i, left), (j, right) = carbons[first], carbons[second]
                if "C" not in left and "N" not in right:
                    pairs.add((min(i, j), max(i, j)))
    return tuple(sorted((int(i), int(j)) for i, j in pairs))


def _chain_ids(topology: AtomTopology, residues: Sequence[Any]) -> list[str]:
    """Return the chain of each bead, told apart also where the file names one or none.

    A chain that the file does not end ends where residue numbers do not go up between residues
    that no bond joins.
    """
    links = peptide_links(topology)
    runs, run = [0], 0
    for before, residue in itertools.pairwise(residues):
        if before.chain is not residue.chain:
            run += 1
        elif before is not residue and residue.index not in links.get(before.index, ()):
            # Insertion codes share a number.
            codes = [topology.insertion_codes[r.index] for r in (before, residue)]
            run += residue.resSeq < before.resSeq or (
                residue.resSeq == before.resSeq and codes[0] == codes[1]
            )
        runs.append(run)
    own = {run: residue.chain.chain_id or "" for run, residue in zip(runs, residues, strict=True)}
    if all(own.values()) and len({*own.values()}) == len(own):
        return [own[run] for run in runs]
    letters = string.ascii_uppercase
    return [letters[run] if len(own) <= len(letters) else str(run + 1) for run in runs]
