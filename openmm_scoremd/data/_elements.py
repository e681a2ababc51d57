"""Elements and masses of atoms: of the file, not of names that mean something else."""

from __future__ import annotations

from typing import Any

import mdtraj
import numpy as np
from mdtraj.core import element as mdtraj_elements
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from openmm_scoremd.data._chemistry import (
    element_of_ion,
    element_of_name,
    is_amino_acid,
    is_cap,
    is_nucleotide,
)

FloatArray = NDArray[np.float64]

#: Atoms of an all-atom model have a neighbour nearer than this, nm; beads of several atoms none.
_NEAREST_NEIGHBOUR = 0.2

#: Masses of a file and of an element, Da, may differ by the rounding of force fields.
_MASS_ROUNDING = 0.03


def certain_elements(
    topology: mdtraj.Topology,
    *,
    guessed: NDArray[np.bool_],
    masses: FloatArray | None,
    positions: FloatArray | None,
) -> list[str]:
    """Return the element symbol of every atom, empty where nothing certain is known.

    Parameters
    ----------
    topology : mdtraj.Topology
        Atoms with the elements that a reader found.
    guessed : (atoms,)
        Whether the reader took the element from the atom's name.
    masses : (atoms,), Da, or None
        Masses from the file.
    positions : (atoms, 3), nm, or None
        One frame.
    """
    atomistic = _have_near_neighbours(positions, topology.n_atoms)
    symbols = []
    for residue in topology.residues:
        polymer = is_amino_acid(residue) or is_cap(residue) or is_nucleotide(residue)
        for atom in residue.atoms:
            index, symbol = atom.index, _symbol(atom)
            if polymer and (named := element_of_name(atom.name)):
                symbol = named
            elif masses is not None:
                mass = atom.element.mass if symbol else 0.0
                symbol = symbol if abs(mass - masses[index]) < _MASS_ROUNDING else ""
            elif guessed[index] and residue.n_atoms == 1:
                symbol = element_of_ion(atom.name)
            elif guessed[index] and not atomistic[index]:
                symbol = ""
            symbols.append(symbol)
    return symbols


def masses_of_elements(symbols: list[str]) -> FloatArray:
    """Return masses in Da, NaN for unknown elements."""
    return np.array(
        [mdtraj_elements.get_by_symbol(symbol).mass if symbol else np.nan for symbol in symbols]
    )


def _symbol(atom: Any) -> str:
    known = atom.element is not None and atom.element.mass > 0.0
    return str(atom.element.symbol) if known else ""


def _have_near_neighbours(positions: FloatArray | None, n_atoms: int) -> NDArray[np.bool_]:
    if positions is None or n_atoms < 2 or not np.isfinite(positions).all():
        return np.ones(n_atoms, dtype=np.bool_)
    distances = cKDTree(positions).query(positions, k=2)[0][:, 1]
    return np.asarray(distances < _NEAREST_NEIGHBOUR)
