"""What chemistry says about atoms: elements behind their names, and how long bonds can be."""

from __future__ import annotations

import functools
from typing import Any

#: Covalent radii, nm (Cordero et al., Dalton Trans. 2008, 2832).
_COVALENT_RADII = {
    "H": 0.031, "B": 0.084, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "Si": 0.111,
    "P": 0.107, "S": 0.105, "Cl": 0.102, "Se": 0.120, "Br": 0.120, "I": 0.139,
}  # fmt: skip

#: Multiples of the sum of two radii: triple bonds have 0.79, strained single bonds 1.1.
_SHORTEST, _LONGEST = 0.78, 1.2

#: Lengths along the backbone, nm (Engh and Huber, Acta Cryst. A47, 392, 1991).
_BACKBONE_LENGTHS = {
    frozenset(("N", "CA")): 0.1458,
    frozenset(("CA", "C")): 0.1525,
    frozenset(("CA", "CB")): 0.1530,
    frozenset(("C", "O")): 0.1231,
    frozenset(("C", "N")): 0.1329,
}

#: CA beads of neighbours, nm: 0.295 across a cis, 0.380 across a trans peptide bond.
CA_DISTANCES = (0.27, 0.42)

#: Bonds of beads that are no atoms, nm: rings of Martini have 0.2, elastic networks 0.9.
_BEAD_DISTANCES = (0.1, 1.2)

#: A bond of C and N longer than this, nm, is none: residues between them are missing.
LONGEST_PEPTIDE_BOND = 0.2

#: Names of the atom that the backbone's C is double-bonded to, in the order of preference.
CARBONYL_OXYGENS = ("O", "OT1", "OC1", "O1", "OT", "OXT")

#: Caps whose C or N takes part in a peptide bond though they have no CA.
_CAPS = frozenset(("ACE", "FOR", "NME", "NMA", "NH2", "NHE", "CT2", "CT3"))

_CALCIUM_RESIDUES = frozenset(("CA", "CAL", "CA2", "CA+2", "CA2+"))

#: Elements with two letters that occur in residues of biomolecules; CD, CE, HE, HG, NE, OS ... are
#: positions of carbon, hydrogen, nitrogen and oxygen there, and so is CA.
_TWO_LETTERS = frozenset(("BR", "CL", "CU", "FE", "MG", "MN", "NA", "SE", "ZN"))

_IONS = frozenset(
    ("Ba", "Br", "Ca", "Cd", "Cl", "Co", "Cs", "Cu", "F", "Fe", "I", "K", "Li", "Mg", "Mn", "Na",
     "Ni", "Rb", "Sr", "Zn")
)  # fmt: skip


def is_amino_acid(residue: Any) -> bool:
    """Whether an MDTraj residue is an amino acid of any name; calcium ions are none."""
    names = {atom.name for atom in residue.atoms}
    if "CA" not in names:
        return False
    if {"N", "C"} <= names or residue.is_protein:
        return True
    return len(names) == 1 and residue.name.upper() not in _CALCIUM_RESIDUES


def is_nucleotide(residue: Any) -> bool:
    """Whether an MDTraj residue is a nucleotide in atoms, not in beads of several."""
    return bool(residue.is_nucleic) and any(atom.name in ("C1'", "C1*") for atom in residue.atoms)


def is_cap(residue: Any) -> bool:
    """Whether an MDTraj residue ends a chain and is no amino acid."""
    return residue.name in _CAPS


def element_of_ion(name: str) -> str:
    """Return the element of an atom that is a residue of its own, empty if it is no ion."""
    symbol = name.rstrip("+-0123456789").capitalize()
    return symbol if symbol in _IONS else ""


def element_of_name(name: str) -> str:
    """Return the element of an atom of an amino acid, nucleotide or cap, empty if unknown."""
    letters = name.lstrip("0123456789").upper()
    if letters[:2] in _TWO_LETTERS and letters != "NA":
        return letters[:2].capitalize()
    return letters[:1] if letters[:1] in {*"CHNOPS"} else ""


@functools.lru_cache(maxsize=1024)
def bonding_distance(first: str, second: str) -> float:
    """Return the distance in nm up to which atoms of two elements are bonded, 0 if unknown."""
    if first not in _COVALENT_RADII or second not in _COVALENT_RADII:
        return 0.0
    return _LONGEST * (_COVALENT_RADII[first] + _COVALENT_RADII[second])


def bond_range(elements: tuple[str, str], names: tuple[str, str] = ("", "")) -> tuple[float, float]:
    """Return the shortest and longest length, nm, that the mean of a bond can have.

    Parameters
    ----------
    elements : (str, str)
        Elements of the two ends, empty for beads that are no atoms.
    names : (str, str), optional
        Their names in amino acids; two CA stand for neighbours along a chain.
    """
    first, second = elements
    if names == ("CA", "CA") and elements == ("C", "C"):
        return CA_DISTANCES
    typical = _BACKBONE_LENGTHS.get(frozenset(names))
    if typical is not None and all(name[:1] == e for name, e in zip(names, elements, strict=True)):
        return 0.9 * typical, 1.2 * typical
    longest = bonding_distance(first, second)
    return (longest * _SHORTEST / _LONGEST, longest) if longest else _BEAD_DISTANCES
