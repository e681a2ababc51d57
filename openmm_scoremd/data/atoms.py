"""Topologies of all atoms, with bonds, elements and masses that can be relied on."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import mdtraj
import numpy as np
from mdtraj.core import element as mdtraj_elements
from mdtraj.formats.pdb.pdbstructure import PdbStructure
from numpy.typing import NDArray

from openmm_scoremd.data._bonds import Frame, bond_pairs, complete_bonds
from openmm_scoremd.data._chemistry import is_amino_acid
from openmm_scoremd.data._elements import certain_elements, masses_of_elements
from openmm_scoremd.data._periodic import usable_cell
from openmm_scoremd.errors import DatasetError, MissingDependencyError

PathLike: TypeAlias = str | os.PathLike[str]
FloatArray = NDArray[np.float64]

#: Suffixes read with ParmEd; MDTraj reads everything else.
PARMED_SUFFIXES = (".prmtop", ".parm7", ".prm7", ".psf", ".top")


class AtomTopology(mdtraj.Topology):  # type: ignore[misc]
    """An MDTraj topology that also knows masses and insertion codes.

    Made by :func:`load_topology` or :meth:`from_mdtraj`. Its selections take any residue with the
    backbone of an amino acid for protein, whatever a force field calls it.

    Attributes
    ----------
    masses : (atoms,) ndarray, Da
        NaN where neither the file nor an element says what it is.
    insertion_codes : tuple of str
        Of every residue, mostly empty.
    """

    masses: FloatArray
    insertion_codes: tuple[str, ...]

    @classmethod
    def from_mdtraj(
        cls,
        topology: mdtraj.Topology,
        *,
        frame: Frame | None = None,
        masses: FloatArray | None = None,
        guessed: NDArray[np.bool_] | None = None,
        insertion_codes: Sequence[str] = (),
    ) -> AtomTopology:
        """Copy an MDTraj topology.

        Parameters
        ----------
        topology : mdtraj.Topology
            Atoms and bonds.
        frame : Frame, optional
            A frame of these atoms, if bonds are to be corrected and completed by its distances.
        masses : (atoms,), Da, optional
            Masses of the file; those of the elements if not given.
        guessed : (atoms,), optional
            Whether the element of an atom was guessed from its name; none was if not given.
        insertion_codes : sequence of str, optional
            Of every residue.
        """
        if isinstance(topology, cls):
            return topology
        symbols = certain_elements(
            topology,
            guessed=np.zeros(topology.n_atoms, np.bool_) if guessed is None else guessed,
            masses=masses,
            positions=None if frame is None else frame.positions,
        )
        copied = cls()
        for chain in topology.chains:
            new_chain = copied.add_chain(chain.chain_id)
            for residue in chain.residues:
                copied._add_residue(residue, new_chain, symbols)
        pairs = bond_pairs(topology)
        if frame is not None:
            pairs = complete_bonds(copied, pairs, symbols, frame)
        for first, second in sorted(pairs):
            copied.add_bond(copied.atom(first), copied.atom(second))
        copied.masses = masses_of_elements(symbols) if masses is None else masses
        copied.insertion_codes = tuple(insertion_codes) or ("",) * copied.n_residues
        return copied

    def _add_residue(self, residue: Any, chain: Any, symbols: Sequence[str]) -> None:
        copied = self.add_residue(residue.name, chain, residue.resSeq, residue.segment_id)
        for atom in residue.atoms:
            symbol = symbols[atom.index]
            element = mdtraj_elements.get_by_symbol(symbol) if symbol else mdtraj_elements.virtual
            self.add_atom(atom.name, element, copied, serial=atom.serial)
        if is_amino_acid(copied) and not copied.is_protein:
            copied.__class__ = _AminoAcid


class _AminoAcid(mdtraj.core.topology.Residue):  # type: ignore[misc]
    """A residue whose name MDTraj does not know and whose atoms say what it is."""

    is_protein = True
    code = "X"


def load_topology(path: PathLike, *, trajectory: PathLike | None = None) -> AtomTopology:
    """Read a topology from any file that MDTraj or ParmEd reads.

    Amber (``.prmtop``, ``.parm7``), CHARMM (``.psf``) and GROMACS (``.top``) files go through
    ParmEd, and their bonds and masses are taken as they are; PDB, mmCIF, GRO, HDF5 and the rest go
    through MDTraj, and distances in their first frame decide what is bonded where names allow it.

    Parameters
    ----------
    path : path-like
        Topology file.
    trajectory : path-like, optional
        Trajectory whose first frame decides, if the topology file has neither bonds nor
        coordinates.

    Returns
    -------
    AtomTopology
        Atoms, residues, chains, bonds and masses.

    Raises
    ------
    DatasetError
        If the file is missing or cannot be read.
    MissingDependencyError
        If its format needs ParmEd, and that cannot be imported.
    """
    if not Path(path).is_file():
        raise DatasetError(f"topology {path} does not exist")
    if Path(path).suffix.lower() in PARMED_SUFFIXES:
        _require_parmed(path)
    try:
        if Path(path).suffix.lower() in PARMED_SUFFIXES:
            return _from_parmed(path, trajectory)
        return _from_mdtraj(path)
    # Readers of a dozen formats raise whatever they stumble over.
    except Exception as error:
        hint = (
            "one that includes force fields must be preprocessed (gmx grompp -pp)"
            if Path(path).suffix.lower() == ".top"
            else "MDTraj and ParmEd read PDB, mmCIF, GRO, prmtop, PSF and GROMACS top, the format "
            "being chosen by the suffix"
        )
        raise DatasetError(
            f"topology {path} cannot be read ({type(error).__name__}: {error}); {hint}"
        ) from error


def _require_parmed(path: PathLike) -> None:
    try:
        import parmed  # noqa: F401
    # It may be there and fail, with a NumPy or Python that it does not know.
    except Exception as error:
        raise MissingDependencyError(
            f"topology {path} is read with ParmEd, which cannot be imported ({error!r}); install "
            "parmed, or give the topology as PDB, mmCIF or GRO, which need no ParmEd"
        ) from error


def _from_parmed(path: PathLike, trajectory: PathLike | None) -> AtomTopology:
    import parmed

    structure = parmed.load_file(os.fspath(path))
    topology = mdtraj.Topology.from_openmm(structure.topology)
    frame = None
    if not structure.bonds and trajectory is not None:
        frame = _frame_of(next(mdtraj.iterload(os.fspath(trajectory), top=topology, chunk=1)))
    return AtomTopology.from_mdtraj(
        topology,
        frame=frame,
        masses=np.array([atom.mass for atom in structure.atoms], dtype=np.float64),
        insertion_codes=[residue.insertion_code.strip() for residue in structure.residues],
    )


def _from_mdtraj(path: PathLike) -> AtomTopology:
    name = os.fspath(path)
    try:
        first = mdtraj.load_frame(name, 0)
    # Not every reader can go to a frame, and formats without coordinates have no loader.
    except (NotImplementedError, OSError):
        try:
            first = mdtraj.load(name)[0]
        except OSError:
            return AtomTopology.from_mdtraj(mdtraj.load_topology(name))
    guessed, codes = None, list[str]()
    if name.lower().endswith((".pdb", ".pdb.gz")):
        guessed, codes = _columns_of_pdb(name)
    elif name.lower().endswith(".gro"):
        guessed = np.ones(first.n_atoms, np.bool_)
    return AtomTopology.from_mdtraj(
        first.topology, frame=_frame_of(first), guessed=guessed, insertion_codes=codes
    )


def _frame_of(trajectory: mdtraj.Trajectory) -> Frame:
    return Frame(trajectory.xyz[0].astype(np.float64), usable_cell(trajectory))


def _columns_of_pdb(name: str) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Return which atoms have no element in their columns, and the insertion code of residues."""
    with gzip.open(name, "rt") if name.endswith(".gz") else open(name) as file:
        text = file.read()
    atoms = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
    if all(_is_element(line[76:78].strip()) and not line[26:27].strip() for line in atoms):
        return None, []
    model = PdbStructure(io.StringIO(text), load_all_models=False)
    residues = [residue for chain in model.iter_chains() for residue in chain.iter_residues()]
    guessed = [not _is_element(atom.element_symbol) for r in residues for atom in r.atoms]
    return np.array(guessed, np.bool_), [r.insertion_code.strip() for r in residues]


def _is_element(symbol: str) -> bool:
    try:
        mdtraj_elements.get_by_symbol(symbol)
    except KeyError:
        return False
    return True
