"""The beads of one coarse-grained molecule: names, residues, masses and bonds."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openmm.app as app

from openmm_scoremd._files.atomic import atomic_path, write_text
from openmm_scoremd.errors import InvalidInputError

#: Letters for chains whose own names do not fit into the one column of a PDB file.
_CHAIN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MAX_PDB_SERIAL = 99999


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

    Raises
    ------
    InvalidInputError
        If the lengths differ, an element does not exist, a mass is not positive, or a bond names a
        bead that does not exist.
    """

    names: tuple[str, ...]
    elements: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_ids: tuple[int, ...]
    chain_ids: tuple[str, ...]
    masses: tuple[float, ...]
    bonds: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        self._check_lengths()
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

    def differences(self, other: BeadTopology) -> str | None:
        """Say what makes other beads another molecule: their number, names, residues or bonds.

        Numbers of residues, chains, elements and masses may differ: no model depends on them.

        Returns
        -------
        str or None
            The first difference in words; None if there is none.
        """
        if self.n_beads != other.n_beads:
            return f"it has {self.n_beads} beads and the other {other.n_beads}"
        for bead in range(self.n_beads):
            mine, others = (
                f"{topology.names[bead]} of {topology.residue_names[bead]}"
                for topology in (self, other)
            )
            if mine != others:
                return f"bead {bead} is {mine}, and {others} in the other"
        single = sorted({*self.bonds} ^ {*other.bonds})
        if single:
            i, j = single[0]
            return f"beads {i} and {j} are bonded in one of them only"
        return None

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
            )
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"not a bead topology: {error!r}") from error

    def _check_lengths(self) -> None:
        if not self.names:
            raise InvalidInputError("a bead topology needs at least one bead")
        for field in ("elements", "residue_names", "residue_ids", "chain_ids", "masses"):
            length = len(getattr(self, field))
            if length != self.n_beads:
                raise InvalidInputError(
                    f"{field} has {length} entries for {self.n_beads} bead names"
                )

    def _residue_key(self, bead: int) -> tuple[int, str]:
        # Residues that differ only by an insertion code share their number, not always their name.
        return self.residue_ids[bead], self.residue_names[bead]

    def _add_copy(self, topology: app.Topology) -> None:
        atoms: list[app.topology.Atom] = []
        chain = residue = None
        for i in range(self.n_beads):
            if i == 0 or self.chain_ids[i] != self.chain_ids[i - 1]:
                chain = topology.addChain(self.chain_ids[i])
                residue = None
            if residue is None or self._residue_key(i) != self._residue_key(i - 1):
                residue = topology.addResidue(
                    self.residue_names[i], chain, id=str(self.residue_ids[i])
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
    written. Chain names longer than one character become letters in order.

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
        If the shape is wrong, a coordinate is NaN or too large, or a name is too long for the
        format.
    """
    frame = np.asarray(positions, dtype=np.float64)
    if frame.shape != (topology.n_beads, 3):
        raise InvalidInputError(
            f"positions have shape {frame.shape}; one frame of this topology is "
            f"({topology.n_beads}, 3)"
        )
    if not (np.abs(frame) < 99.0).all():
        raise InvalidInputError(
            "a coordinate is NaN or beyond 99 nm, the most a PDB file can hold; centre the frame"
        )
    _check_names(topology, longest=4)
    if topology.n_beads > _MAX_PDB_SERIAL:
        raise InvalidInputError(f"{topology.n_beads} beads; a PDB file can hold {_MAX_PDB_SERIAL}")
    lines = [*_pdb_atom_lines(topology, 10.0 * frame), *_pdb_bond_lines(topology), "END"]
    write_text(path, "\n".join(lines) + "\n")


def write_psf(topology: BeadTopology, path: str | os.PathLike[str]) -> None:
    """Write names, residues, masses and bonds as a PSF file; charges are zero.

    Parameters
    ----------
    topology : BeadTopology
        What the beads are. Chain names become segment names.
    path : path-like
        File to write, whole or not at all.

    Raises
    ------
    InvalidInputError
        If a name is too long for the format.
    """
    import parmed  # Slow to import, and only needed here.

    _check_names(topology, longest=8)
    structure = parmed.Structure()
    for i, name in enumerate(topology.names):
        atom = parmed.Atom(name=name, type=name, mass=topology.masses[i], charge=0.0)
        chain = "_".join(topology.chain_ids[i].split())[:8]
        structure.add_atom(
            atom, topology.residue_names[i], topology.residue_ids[i], chain=chain, segid=chain
        )
    for i, j in topology.bonds:
        structure.bonds.append(parmed.Bond(structure.atoms[i], structure.atoms[j]))
    with atomic_path(path) as temporary:
        structure.save(os.fspath(temporary), format="psf", overwrite=True)


def _pdb_atom_lines(topology: BeadTopology, angstrom: npt.NDArray[np.float64]) -> Iterator[str]:
    letters = _chain_letters(topology)
    for i, (x, y, z) in enumerate(angstrom):
        name, element = topology.names[i], topology.elements[i].upper()
        # One-letter elements leave the first of the four name columns blank.
        column = name if len(name) == 4 or len(element) == 2 else f" {name}"
        residue = f"{topology.residue_names[i]:>3}"
        number = topology.residue_ids[i]
        number = number if -999 <= number <= 9999 else number % 10000
        yield (
            f"ATOM  {i + 1:5d} {column:<4} {residue:<4}{letters[i]}{number:4d}    "
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


def _check_names(topology: BeadTopology, *, longest: int) -> None:
    for name in (*topology.names, *topology.residue_names):
        if not 1 <= len(name) <= longest or any(character.isspace() for character in name):
            raise InvalidInputError(
                f"the name {name!r} cannot be written in this format; bead and residue names need "
                f"1 to {longest} characters without spaces"
            )


def _check_element(symbol: str) -> None:
    try:
        app.Element.getBySymbol(symbol)
    except KeyError as error:
        raise InvalidInputError(
            f"{symbol!r} is no element symbol; give one, or '' for a bead of several atoms"
        ) from error
