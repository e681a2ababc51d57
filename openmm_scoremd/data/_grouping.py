"""Beads of several atoms, named by a mapping file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from openmm_scoremd.data._chemistry import is_amino_acid
from openmm_scoremd.data._presets import some
from openmm_scoremd.data.atoms import AtomTopology
from openmm_scoremd.errors import DatasetError, InvalidInputError

#: Residue name to bead name to names of atoms.
BeadRules: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]

_ANY = "*"


@dataclasses.dataclass(frozen=True)
class Groups:
    """Atoms of every bead.

    Attributes
    ----------
    atoms : list of list of int
        In bead order.
    names : list of str
        Of the beads.
    notes : tuple of str
        What the rules name and the topology lacks.
    """

    atoms: list[list[int]]
    names: list[str]
    notes: tuple[str, ...]


def read_rules(path: str | os.PathLike[str]) -> BeadRules:
    """Read a mapping file.

    Raises
    ------
    InvalidInputError
        If the file is missing or is no YAML of residues, beads and atoms.
    """
    import yaml  # comes with jsonargparse

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return {
            str(residue): {str(bead): [str(a) for a in atoms] for bead, atoms in beads.items()}
            for residue, beads in content.items()
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"{path} is no mapping of beads ({error}); write residues, their beads and the atoms "
            "of each as YAML, such as 'ALA: {BB: [N, CA, C, O], SC: [CB]}'"
        ) from error


def group_atoms(topology: AtomTopology, rules: BeadRules) -> Groups:
    """Collect the atoms of every bead.

    Raises
    ------
    DatasetError
        If no residue of the topology has a bead.
    """
    groups = Groups([], [], ())
    incomplete = []
    for residue in topology.residues:
        beads = rules.get(residue.name, rules.get(_ANY) if is_amino_acid(residue) else None)
        for bead, atoms, missing in _beads_of(residue, beads or {}):
            if atoms:
                groups.atoms.append(atoms)
                groups.names.append(bead)
            if missing:
                incomplete.append(f"{residue} {bead} ({' '.join(missing)})")
    if not groups.atoms:
        named = sorted({residue.name for residue in topology.residues})
        raise DatasetError(
            f"the mapping has beads for {some(sorted(rules))}, and the topology has the residues "
            f"{some(named)}; name them as the topology does"
        )
    if incomplete:
        note = f"left out: atoms of the mapping that are not there: {some(incomplete)}"
        return dataclasses.replace(groups, notes=(note,))
    return groups


def _beads_of(
    residue: Any, beads: Mapping[str, Sequence[str]]
) -> list[tuple[str, list[int], list[str]]]:
    """Return name, atoms and missing atoms of the beads of a residue."""
    present = {atom.name: atom.index for atom in residue.atoms}
    named = {name for atoms in beads.values() for name in atoms}
    rest = [index for name, index in present.items() if name not in named]
    found = []
    for bead, names in beads.items():
        atoms = [present[name] for name in names if name in present]
        atoms += rest if _ANY in names else []
        missing = [name for name in names if name not in present and name != _ANY]
        found.append((bead, sorted(atoms), missing))
    return found
