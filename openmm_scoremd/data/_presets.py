"""Named sets of atoms to keep as beads."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from openmm_scoremd.data._chemistry import CARBONYL_OXYGENS, is_amino_acid, is_cap
from openmm_scoremd.data.atoms import AtomTopology
from openmm_scoremd.errors import DatasetError, InvalidInputError

_DIPEPTIDE_BEADS = (("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N"))
_BACKBONE_BEADS = ("N", "CA", "CB", "C", "O")


@dataclasses.dataclass(frozen=True)
class PresetBeads:
    """The atoms that a preset keeps.

    Attributes
    ----------
    atoms : list of int
        In bead order.
    names : list of str
        What the beads are called: by the preset, not by the force field.
    notes : tuple of str
        What was left out.
    """

    atoms: list[int]
    names: list[str]
    notes: tuple[str, ...] = ()


def preset_beads(topology: AtomTopology, preset: str) -> PresetBeads:
    """Return the atoms that a preset keeps.

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


def peptide_links(topology: AtomTopology) -> dict[int, set[int]]:
    """Return for every residue with a peptide bond the residues that it leads to.

    A peptide bond is one from C to N, or from CA to CA where residues have neither.
    """
    links: dict[int, set[int]] = {}
    for first, second in topology.bonds:
        names = {first.name, second.name}
        a, b = first.residue, second.residue
        if a is not b and names in ({"C", "N"}, {"CA"}) and all(map(_in_chains, (a, b))):
            links.setdefault(a.index, set()).add(b.index)
            links.setdefault(b.index, set()).add(a.index)
    return links


def some(names: Sequence[str]) -> str:
    """Return names for a message, the first of many."""
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def _dipeptide(topology: AtomTopology) -> PresetBeads:
    found = []
    for residue, name in _DIPEPTIDE_BEADS:
        matches = [a.index for a in topology.atoms if (a.residue.name, a.name) == (residue, name)]
        if len(matches) != 1:
            raise DatasetError(
                f"preset alanine-dipeptide needs exactly one atom {name} in residue {residue}, the "
                f"topology has {len(matches)}; for other names or molecules give atom indices"
            )
        found += matches
    return PresetBeads(found, [name for _, name in _DIPEPTIDE_BEADS])


def _backbone(topology: AtomTopology) -> PresetBeads:
    residues, notes = _chain_residues(topology)
    beads, lacking = PresetBeads([], [], notes), []
    for residue in residues:
        atoms = {atom.name: atom.index for atom in residue.atoms}
        oxygen = next((name for name in CARBONYL_OXYGENS if name in atoms), "O")
        glycine = residue.name.endswith("GLY")
        wanted = [name for name in _BACKBONE_BEADS if not (glycine and name == "CB")]
        sources = [oxygen if name == "O" else name for name in wanted]
        missing = [name for name in sources if name not in atoms]
        if missing:
            lacking.append(f"{residue} ({' '.join(missing)})")
            continue
        beads.atoms.extend(atoms[name] for name in sources)
        beads.names.extend(wanted)
    if lacking:
        raise DatasetError(
            "preset backbone-cb needs N, CA, CB (but for glycine), C and O in every amino acid; "
            f"atoms are missing in {some(lacking)}: complete the structure, or use preset ca or a "
            "selection"
        )
    return beads


def _ca(topology: AtomTopology) -> PresetBeads:
    residues, notes = _chain_residues(topology)
    atoms = [next(residue.atoms_by_name("CA")).index for residue in residues]
    return PresetBeads(atoms, ["CA"] * len(atoms), notes)


def _in_chains(residue: Any) -> bool:
    return is_amino_acid(residue) or is_cap(residue) or bool(residue.is_protein)


def _chain_residues(topology: AtomTopology) -> tuple[list[Any], tuple[str, ...]]:
    """Return the amino acids of chains, and what is none of them or not whole."""
    links = peptide_links(topology)
    amino_acids = [residue for residue in topology.residues if is_amino_acid(residue)]
    if not amino_acids:
        raise DatasetError(
            "the topology has no amino acid with an atom CA; give a selection, indices or a mapping"
        )
    residues = [residue for residue in amino_acids if residue.index in links] or amino_acids
    kept, whole = {r.index for r in residues}, {r.index for r in amino_acids}
    free = [str(residue) for residue in amino_acids if residue.index not in kept]
    halves = [
        str(residue)
        for residue in topology.residues
        if residue.index not in whole
        and not is_cap(residue)
        and (residue.is_protein or residue.index in links)
    ]
    notes = []
    if free:
        notes.append(f"left out: amino acids without a peptide bond: {some(free)}")
    if halves:
        notes.append(f"left out: amino acids without CA: {some(halves)}")
    gaps = [
        f"{a} and {b}"
        for a, b in itertools.pairwise(residues)
        if a.chain is b.chain and b.index not in links.get(a.index, ())
    ]
    if gaps:
        notes.append(f"chains: no peptide bond, so a gap or another chain, between {some(gaps)}")
    return residues, tuple(notes)


_PRESETS: dict[str, Callable[[AtomTopology], PresetBeads]] = {
    "alanine-dipeptide": _dipeptide,
    "backbone-cb": _backbone,
    "ca": _ca,
}
