"""The beads of one coarse-grained molecule: names, residues, masses and bonds."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openmm.app as app

from openmm_scoremd._files.atomic import write_text
from openmm_scoremd.errors import InvalidInputError

logger = logging.getLogger(__name__)

#: Letters for chains whose own names do not fit into the one column of a PDB file.
_CHAIN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MAX_PDB_SERIAL = 99999
#: Residues whose names tell how they are protonated or bridged, in Amber and CHARMM.
_NEUTRAL_NAMES = {
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip
#: A PDB file has columns for coordinates below this.
_PDB_NANOMETERS = 99.0


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


def write_pdb(
    topology: BeadTopology, positions: npt.ArrayLike, path: str | os.PathLike[str]
) -> None:
    """Write one frame as a PDB file, with a CONECT record for every bond.

    Viewers and MDTraj guess bonds from residue names, which fails for beads; hence all bonds are
    written. What does not fit into the columns of the format is changed in the file only: chain
    names longer than one character become letters in order, longer bead and residue names are
    shortened to four and keep being different, blanks in names become underscores.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are.
    positions : (beads, 3), nm
        Coordinates; the file holds them in Angstrom with three decimals.
    path : path-like
        File to write, whole or not at all.

    Raises
    ------
    InvalidInputError
        If the shape is wrong, a coordinate is NaN or too large, or there are too many beads.
    """
    frame = np.asarray(positions, dtype=np.float64)
    if frame.shape != (topology.n_beads, 3):
        raise InvalidInputError(
            f"positions have shape {frame.shape}; one frame of this topology is "
            f"({topology.n_beads}, 3)"
        )
    if not (np.abs(frame) < _PDB_NANOMETERS).all():
        raise InvalidInputError(
            "a coordinate is NaN or beyond 99 nm, the most a PDB file can hold; centre the frame"
        )
    if topology.n_beads > _MAX_PDB_SERIAL:
        raise InvalidInputError(f"{topology.n_beads} beads; a PDB file can hold {_MAX_PDB_SERIAL}")
    lines = [*_pdb_atom_lines(topology, 10.0 * frame), *_pdb_bond_lines(topology), "END"]
    write_text(path, "\n".join(lines) + "\n")


def write_psf(topology: BeadTopology, path: str | os.PathLike[str]) -> None:
    """Write names, residues, masses and bonds as a PSF file; charges are zero.

    The file is of the extended X-PLOR kind. Names longer than eight characters and blanks in names
    are changed as in :func:`write_pdb`; insertion codes are left out, because MDTraj cannot read
    them here.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are. Chain names become segment names.
    path : path-like
        File to write, whole or not at all.
    """
    names, residues, segments = (
        _short_names(column, longest=8)
        for column in (topology.names, topology.residue_names, topology.chain_ids)
    )
    lines = ["PSF EXT XPLOR", "", _psf_heading(1, "NTITLE"), " REMARKS coarse-grained beads", ""]
    lines.append(_psf_heading(topology.n_beads, "NATOM"))
    lines += [
        f"{i + 1:10d} {segments[i]:<8} {topology.residue_ids[i]:<8d} {residues[i]:<8} "
        f"{names[i]:<8} {names[i][:6]:<6} {0.0:10.6f} {topology.masses[i]:13.4f}{0:12d}"
        for i in range(topology.n_beads)
    ]
    lines += ["", _psf_heading(len(topology.bonds), "NBOND: bonds")]
    ends = [f"{bead + 1:10d}" for bond in topology.bonds for bead in bond]
    lines += ["".join(ends[start : start + 8]) for start in range(0, len(ends), 8)]
    # Readers go through all sections, also those that hold nothing.
    for section in ("NTHETA: angles", "NPHI: dihedrals", "NIMPHI: impropers", "NDON: donors",
                    "NACC: acceptors", "NNB"):  # fmt: skip
        lines += ["", _psf_heading(0, section), ""]
    write_text(path, "\n".join(lines) + "\n")


def _psf_heading(count: int, section: str) -> str:
    return f"{count:10d} !{section}"


def write_viewer_files(
    topology: BeadTopology, positions: npt.ArrayLike, stem: str | os.PathLike[str]
) -> None:
    """Write ``stem.pdb`` and ``stem.psf``, beside results that must not be lost with them.

    What a format cannot hold is changed, with a warning in the log: names that are too long are
    shortened, a frame far away is centred, and coordinates still beyond its columns are cut.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are.
    positions : (beads, 3), nm
        Coordinates for the PDB file.
    stem : path-like
        Path of both files without their suffix.
    """
    frame = np.nan_to_num(np.asarray(positions, dtype=np.float64))
    if np.abs(frame).max() >= _PDB_NANOMETERS:
        logger.warning("%s.pdb cannot hold coordinates beyond 99 nm: they are moved", stem)
        frame = np.clip(frame - frame.mean(axis=0), 0.1 - _PDB_NANOMETERS, _PDB_NANOMETERS - 0.1)
    try:
        write_pdb(topology, frame, f"{os.fspath(stem)}.pdb")
    except InvalidInputError as error:
        logger.warning("no %s.pdb: %s", stem, error)
    write_psf(topology, f"{os.fspath(stem)}.psf")


def _pdb_atom_lines(topology: BeadTopology, angstrom: npt.NDArray[np.float64]) -> Iterator[str]:
    letters = _chain_letters(topology)
    names = _short_names(topology.names, longest=4)
    residues = _short_names(topology.residue_names, longest=4)
    for i, (x, y, z) in enumerate(angstrom):
        element = topology.elements[i].upper()
        # One-letter elements leave the first of the four name columns blank.
        column = names[i] if len(names[i]) == 4 or len(element) == 2 else f" {names[i]}"
        number = topology.residue_ids[i]
        number = number if -999 <= number <= 9999 else number % 10000
        residue, code = f"{residues[i]:>3}", topology.insertion_codes[i][:1] or " "
        yield (
            f"ATOM  {i + 1:5d} {column:<4} {residue:<4}{letters[i]}{number:4d}{code}   "
            f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}"
        )
        if i + 1 == topology.n_beads or topology.chain_ids[i + 1] != topology.chain_ids[i]:
            yield "TER"


def _pdb_bond_lines(topology: BeadTopology) -> Iterator[str]:
    partners: dict[int, list[int]] = {}
    for i, j in topology.bonds:
        partners.setdefault(i, []).append(j)
        partners.setdefault(j, []).append(i)
    for bead in sorted(partners):
        others = sorted(partners[bead])
        for start in range(0, len(others), 4):
            serials = [bead, *others[start : start + 4]]
            yield "CONECT" + "".join(f"{serial + 1:5d}" for serial in serials)


def _chain_letters(topology: BeadTopology) -> list[str]:
    """Return one character per bead."""
    chains = topology.chain_ids
    if all(len(chain) == 1 for chain in chains):
        return list(chains)
    runs = np.cumsum([i > 0 and chains[i] != chains[i - 1] for i in range(len(chains))])
    return [_CHAIN_LETTERS[run % len(_CHAIN_LETTERS)] for run in runs]


def _short_names(names: Sequence[str], *, longest: int) -> list[str]:
    """Return names that fit into columns; those that differ stay different while numbers fit."""
    shortened: dict[str, str] = {}
    taken = {name for name in names if _fits(name, longest)}
    for name in dict.fromkeys(names):
        if _fits(name, longest):
            shortened[name] = name
            continue
        plain = re.sub(r"[^!-~]", "_", name) or "X"
        candidates = itertools.chain(
            [plain[:longest]], (f"{plain[: longest - len(str(k))]}{k}" for k in range(1, 1000))
        )
        shortened[name] = next(
            (candidate for candidate in candidates if candidate not in taken), plain[:longest]
        )
        taken.add(shortened[name])
    return [shortened[name] for name in names]


def _fits(name: str, longest: int) -> bool:
    return re.fullmatch(rf"[!-~]{{1,{longest}}}", name) is not None


def _check_element(symbol: str) -> None:
    try:
        app.Element.getBySymbol(symbol)
    except KeyError as error:
        raise InvalidInputError(
            f"{symbol!r} is no element symbol; give one, or '' for a bead of several atoms"
        ) from error
