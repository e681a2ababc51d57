"""The beads of one coarse-grained molecule: names, residues, masses and bonds."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import openmm.app as app

from openmm_scoremd._renamed import keep_old_names
from openmm_scoremd.errors import InvalidInputError

#: Residues whose names tell how they are protonated or bridged, in Amber and CHARMM.
_NEUTRAL_NAMES = {
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BeadTopology:
    """Static description of the beads of one molecule.

    Attributes
    ----------
    names : tuple of str
        Bead names, usually the names of the atoms kept.
    elements : tuple of str
        Element symbol of each bead, empty where a bead stands for no single atom.
    residue_names : tuple of str
        Residue name of each bead.
    residue_ids : tuple of int
        Residue number of each bead, as in the source topology.
    chain_ids : tuple of str
        Chain of each bead.
    masses : tuple of float
        Bead masses in dalton.
    bonds : tuple of (int, int)
        Bonded pairs of bead indices, smaller index first.
    insertion_codes : tuple of str
        Insertion code of each bead's residue, as in PDB files; all empty if not given.
    residue_indices : tuple of int
        Residue of each bead, counted from 0: what tells residues apart that share chain, number
        and name. If not given, a residue ends where one of these or the
        insertion code changes, or where a bead name comes a second time.

    Raises
    ------
    InvalidInputError
        If the lengths differ, an element does not exist, a mass is not positive, a bond names a
        bead that does not exist, or a residue index is negative.
    """

    names: tuple[str, ...]
    elements: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_ids: tuple[int, ...]
    chain_ids: tuple[str, ...]
    masses: tuple[float, ...]
    bonds: tuple[tuple[int, int], ...] = ()
    insertion_codes: tuple[str, ...] = ()
    residue_indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.insertion_codes:
            object.__setattr__(self, "insertion_codes", ("",) * self.n_beads)
        self._check_lengths()
        if not self.residue_indices:
            object.__setattr__(self, "residue_indices", self._count_residues())
        if min(self.residue_indices) < 0:
            raise InvalidInputError(
                f"a residue index is {min(self.residue_indices)}; count residues from 0"
            )
        for symbol in set(self.elements) - {""}:
            _check_element(symbol)
        for mass in self.masses:
            if not (math.isfinite(mass) and mass > 0.0):
                raise InvalidInputError(f"a bead has mass {mass}; masses must be positive (dalton)")
        for i, j in self.bonds:
            if not 0 <= i < j < self.n_beads:
                raise InvalidInputError(
                    f"bond ({i}, {j}) is not possible with {self.n_beads} beads; "
                    "give two different indices below that number, the smaller one first"
                )

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.names)

    @property
    def residue_labels(self) -> tuple[str, ...]:
        """Residue of each bead as people write it, such as ``"ALA 2"`` or ``"B:SER 52A"``.

        The chain is named where there are several. Where residues still share a label their
        position is added (``"ALA 2 #7"``, counted from 1), so that no two have the same.
        """
        return self._labels([f"{name} " for name in self.residue_names], self.residue_names)

    @property
    def bead_labels(self) -> tuple[str, ...]:
        """Name and residue of each bead, such as ``"CA2"`` or ``"B:CA52A"``.

        Chains and positions are added as in :attr:`residue_labels`; only beads of one residue that
        share a name share a label.
        """
        return self._labels(self.names, [""] * self.n_beads)

    def difference_from(self, other: BeadTopology) -> str:
        """Return the first thing that makes this another molecule than ``other``, or "".

        Compared are number and names of the beads, names of their residues, which beads share one,
        and bonds where both have some. Chains, residue numbers, elements and masses may differ, and
        so may residue names that only tell how a side chain is protonated.

        Parameters
        ----------
        other : BeadTopology
            What it should be.

        Returns
        -------
        str
            What is different, as the end of a sentence.
        """
        if self.n_beads != other.n_beads:
            return f"there are {self.n_beads} beads and not {other.n_beads}"
        for i in range(self.n_beads):
            mine, theirs = self._named(i), other._named(i)
            if mine != theirs:
                return f"bead {i} is {mine[0]} of {mine[1]} and not {theirs[0]} of {theirs[1]}"
            if i and self._continues(i) != other._continues(i):
                mine_are = "one residue, not of two" if self._continues(i) else "two residues"
                return f"beads {i - 1} and {i} are of {mine_are}"
        if self.bonds and other.bonds and (odd := {*self.bonds} ^ {*other.bonds}):
            i, j = min(odd)
            return f"beads {i} and {j} are bonded in one of the two only"
        return ""

    def _named(self, bead: int) -> tuple[str, str]:
        residue = self.residue_names[bead]
        return self.names[bead], _NEUTRAL_NAMES.get(residue, residue)

    def _continues(self, bead: int) -> bool:
        """Whether a bead is of the same residue as the one before it."""
        return self.residue_indices[bead] == self.residue_indices[bead - 1]

    def to_openmm(self, *, replicas: int = 1) -> app.Topology:
        """Return an OpenMM topology with ``replicas`` copies of the molecule, one after another.

        Parameters
        ----------
        replicas : int
            Number of copies.

        Returns
        -------
        openmm.app.Topology
            ``replicas * n_beads`` atoms; chains are repeated for every copy.
        """
        if replicas < 1:
            raise InvalidInputError(f"replicas is {replicas}; it must be at least 1")
        topology = app.Topology()
        for _ in range(replicas):
            self._add_copy(topology)
        return topology

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, ready for JSON."""
        return {
            field.name: [list(v) if isinstance(v, tuple) else v for v in getattr(self, field.name)]
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BeadTopology:
        """Build from the output of :meth:`to_dict`.

        Raises
        ------
        InvalidInputError
            If an entry is missing or of the wrong type.
        """
        try:
            return cls(
                names=tuple(str(v) for v in content["names"]),
                elements=tuple(str(v) for v in content["elements"]),
                residue_names=tuple(str(v) for v in content["residue_names"]),
                residue_ids=tuple(int(v) for v in content["residue_ids"]),
                chain_ids=tuple(str(v) for v in content["chain_ids"]),
                masses=tuple(float(v) for v in content["masses"]),
                bonds=tuple((int(i), int(j)) for i, j in content["bonds"]),
                insertion_codes=tuple(str(v) for v in content.get("insertion_codes", ())),
                residue_indices=tuple(int(v) for v in content.get("residue_indices", ())),
            )
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"not a bead topology: {error!r}") from error

    def _check_lengths(self) -> None:
        if not self.names:
            raise InvalidInputError("a bead topology needs at least one bead")
        for field in dataclasses.fields(self):
            length = len(getattr(self, field.name))
            if field.name == "bonds" or (field.name == "residue_indices" and not length):
                continue
            if length != self.n_beads:
                raise InvalidInputError(
                    f"{field.name} has {length} entries for {self.n_beads} bead names"
                )

    def _count_residues(self) -> tuple[int, ...]:
        named = (self.chain_ids, self.residue_ids, self.residue_names, self.insertion_codes)
        keys = list(zip(*named, strict=True))
        indices, seen = [0], {self.names[0]}
        for bead in range(1, self.n_beads):
            starts = keys[bead] != keys[bead - 1] or self.names[bead] in seen
            seen = {self.names[bead]} | (set() if starts else seen)
            indices.append(indices[-1] + starts)
        return tuple(indices)

    def _labels(self, names: Sequence[str], kinds: Sequence[str]) -> tuple[str, ...]:
        """Return chain, name and number; ``kinds`` is what else tells residues apart."""
        several = len({*self.chain_ids}) > 1
        chains = [f"{chain}:" if several else "" for chain in self.chain_ids]
        numbers = [f"{n}{c}" for n, c in zip(self.residue_ids, self.insertion_codes, strict=True)]
        keys = list(zip(chains, kinds, numbers, strict=True))
        n_residues = Counter(key for key, _ in {*zip(keys, self.residue_indices, strict=True)})
        return tuple(
            f"{chains[i]}{names[i]}{numbers[i]}"
            + (f" #{self.residue_indices[i] + 1}" if n_residues[keys[i]] > 1 else "")
            for i in range(self.n_beads)
        )

    def _add_copy(self, topology: app.Topology) -> None:
        atoms: list[app.topology.Atom] = []
        chain = residue = None
        for i in range(self.n_beads):
            if i == 0 or self.chain_ids[i] != self.chain_ids[i - 1]:
                chain = topology.addChain(self.chain_ids[i])
            if i == 0 or self.residue_indices[i] != self.residue_indices[i - 1]:
                residue = topology.addResidue(
                    self.residue_names[i],
                    chain,
                    id=str(self.residue_ids[i]),
                    insertionCode=self.insertion_codes[i],
                )
            element = app.Element.getBySymbol(self.elements[i]) if self.elements[i] else None
            atoms.append(topology.addAtom(self.names[i], element, residue))
        for i, j in self.bonds:
            topology.addBond(atoms[i], atoms[j])


def _check_element(symbol: str) -> None:
    try:
        app.Element.getBySymbol(symbol)
    except KeyError as error:
        raise InvalidInputError(
            f"{symbol!r} is no element symbol; give one, or '' for a bead of several atoms"
        ) from error


keep_old_names(__name__)
