"""Named sets of atoms to keep as beads."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import mdtraj

from openmm_scoremd.errors import DatasetError, InvalidInputError

_DIPEPTIDE_BEADS = (("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N"))
_BACKBONE_BEADS = ("N", "CA", "CB", "C", "O")


def preset_atoms(topology: mdtraj.Topology, preset: str) -> list[int]:
    """Return the atoms that a preset keeps, in bead order.

    Raises
    ------
    InvalidInputError
        If there is no such preset.
    DatasetError
        If the topology lacks an atom of the preset or has too many.
    """
    if preset not in _PRESETS:
        near = difflib.get_close_matches(preset, _PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InvalidInputError(f"preset {preset!r} is none of {', '.join(_PRESETS)}{hint}")
    return _PRESETS[preset](topology)


def ca_bonds(topology: mdtraj.Topology, atoms: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Bond CA beads that are neighbours in a chain, unless residue numbers show a gap."""
    residues = [topology.atom(index).residue for index in atoms]
    return tuple(
        (i, i + 1)
        for i, (left, right) in enumerate(itertools.pairwise(residues))
        # Residues that differ only by an insertion code share their number.
        if left.chain is right.chain and 0 <= right.resSeq - left.resSeq <= 1
    )


def _dipeptide_atoms(topology: mdtraj.Topology) -> list[int]:
    found = []
    for residue, name in _DIPEPTIDE_BEADS:
        matches = [a.index for a in topology.atoms if (a.residue.name, a.name) == (residue, name)]
        if len(matches) != 1:
            raise DatasetError(
                f"preset alanine-dipeptide needs exactly one atom {name} in residue {residue}, the "
                f"topology has {len(matches)}; for other names or molecules give atom indices"
            )
        found += matches
    return found


def _backbone_atoms(topology: mdtraj.Topology) -> list[int]:
    kept = []
    for residue in _amino_acids(topology):
        atoms = {atom.name: atom.index for atom in residue.atoms}
        missing = [name for name in _BACKBONE_BEADS if name not in atoms]
        if missing:
            raise DatasetError(
                f"preset backbone-cb needs {', '.join(_BACKBONE_BEADS)} in every amino acid, but "
                f"{residue} has no {', '.join(missing)} (glycine has no CB); "
                "use preset ca or a selection"
            )
        kept += [atoms[name] for name in _BACKBONE_BEADS]
    return kept


def _ca_atoms(topology: mdtraj.Topology) -> list[int]:
    return [next(residue.atoms_by_name("CA")).index for residue in _amino_acids(topology)]


def _amino_acids(topology: mdtraj.Topology) -> list[Any]:
    """Return residues with a CA; caps, solvent and calcium ions have none or are no amino acid."""
    residues = []
    for residue in topology.residues:
        names = {atom.name for atom in residue.atoms}
        if "CA" in names and (residue.is_protein or {"N", "C"} <= names):
            residues.append(residue)
    if not residues:
        raise DatasetError("the topology has no amino acid with an atom CA; give a selection")
    return residues


_PRESETS: dict[str, Callable[[mdtraj.Topology], list[int]]] = {
    "alanine-dipeptide": _dipeptide_atoms,
    "backbone-cb": _backbone_atoms,
    "ca": _ca_atoms,
}
