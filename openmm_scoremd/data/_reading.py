"""Trajectories of any format in chunks, with the mistakes their readers keep silent about."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.data._periodic import Molecules, cell_heights, usable_cell
from openmm_scoremd.data._sanity_checks import check_box, check_first_frame
from openmm_scoremd.errors import DatasetError

PathLike: TypeAlias = str | os.PathLike[str]

#: ``"join"``: make molecules whole along their bonds; ``"ignore"``: take coordinates as they are.
BoxTreatment: TypeAlias = Literal["join", "ignore"]

#: Formats that MDTraj cannot read in pieces.
_READ_WHOLE = (".cif", ".mmcif", ".pdbx", ".rst7", ".inpcrd", ".restrt", ".ncrst")

logger = logging.getLogger(__name__)


class AtomReader:
    """Reads the coordinates of some atoms, made whole where there is a periodic box.

    Parameters
    ----------
    topology : mdtraj.Topology
        All-atom topology.
    atoms : sequence of int
        Atoms to read, in this order.
    box : {"join", "ignore"}
        What to do about periodic boxes.
    on_problem : callable
        Takes a sentence about data that cannot be right; may raise.

    Attributes
    ----------
    boxes : dict of str to str
        Of every file read, what was done about its box.
    """

    def __init__(
        self,
        topology: mdtraj.Topology,
        atoms: Sequence[int],
        *,
        box: BoxTreatment,
        on_problem: Callable[[str], None],
    ) -> None:
        self._topology = topology
        self._atoms = list(atoms)
        self._box = box
        self._on_problem = on_problem
        self.boxes: dict[str, str] = {}

    def chunks(self, path: PathLike, chunk_size: int) -> Iterator[NDArray[Any]]:
        """Yield the frames of a file.

        Parameters
        ----------
        path : path-like
            Trajectory file.
        chunk_size : int
            Frames at a time.

        Yields
        ------
        (frames, atoms, 3), nm
            At most ``chunk_size`` frames.

        Raises
        ------
        DatasetError
            If the file is missing, unreadable or empty, has another number of atoms, or has a
            periodic box that is impossible or in which no bonds join the atoms.
        """
        molecules = self._molecules(path, _first_frame(path, self._topology))
        loaded = molecules.atom_indices if molecules else tuple(sorted(self._atoms))
        columns = np.searchsorted(loaded, self._atoms)
        n_read, box_fits = 0, True
        for chunk in _read(path, self._topology, chunk_size, loaded):
            n_read += chunk.n_frames
            xyz = chunk.xyz
            if molecules is not None:
                cells = chunk.unitcell_vectors
                xyz = molecules.make_whole(xyz, cells)
                if box_fits:  # to say it once is enough
                    longest, heights = molecules.longest_step(xyz), cell_heights(cells)
                    box_fits = check_box(path, longest, float(heights.min()), self._on_problem)
            yield xyz[:, columns]
        _warn_if_cut_off(Path(path), n_read)

    def _molecules(self, path: PathLike, first: mdtraj.Trajectory) -> Molecules | None:
        """Look at the first frame, and say how its box is treated."""
        lengths = first.unitcell_lengths
        if lengths is None or not (lengths > 0.0).all():
            cell, treatment = None, "none"
        elif self._box == "ignore":
            cell, treatment = None, "ignored: molecules are said to be whole"
        else:
            try:
                cell = usable_cell(first)
            except DatasetError as error:
                raise DatasetError(f"trajectory {path}: {error}") from error
            treatment = "a placeholder of 0.1 nm, ignored"
        check_first_frame(path, first, cell, self._on_problem)
        molecules = None if cell is None else Molecules.from_topology(self._topology, self._atoms)
        if molecules is not None:
            treatment = "molecules made whole along their bonds"
            if len(molecules.kept) > 1:
                treatment = f"{len(molecules.kept)} {treatment}, then brought together"
        self.boxes[os.fspath(path)] = treatment
        return molecules


def _first_frame(path: PathLike, topology: mdtraj.Topology) -> mdtraj.Trajectory:
    """Return the first frame of all atoms; refuse files of another molecule or without frames."""
    if not Path(path).is_file():
        raise DatasetError(f"trajectory {path} does not exist")
    # Reading only the atoms kept would not notice a different number of atoms.
    first = next(_read(path, topology, 1, None), None)
    if first is None:
        raise DatasetError(f"trajectory {path} has no frames; give one with at least one frame")
    if first.n_atoms != topology.n_atoms:
        raise DatasetError(
            f"trajectory {path} has {first.n_atoms} atoms and the topology {topology.n_atoms}; "
            "give the topology of this trajectory"
        )
    return first


def _read(
    path: PathLike, topology: mdtraj.Topology, chunk_size: int, atoms: Sequence[int] | None
) -> Iterator[mdtraj.Trajectory]:
    name = os.fspath(path)
    try:
        if name.lower().removesuffix(".gz").endswith(_READ_WHOLE):
            yield mdtraj.load(name, top=topology, atom_indices=atoms)
            return
        yield from mdtraj.iterload(name, top=topology, chunk=chunk_size, atom_indices=atoms)
    # Readers of a dozen formats raise whatever they stumble over.
    except Exception as error:
        raise DatasetError(
            f"trajectory {path} cannot be read with a topology of {topology.n_atoms} atoms "
            f"({type(error).__name__}: {error}); check that the topology belongs to it and that "
            "the file is whole"
        ) from error


def _warn_if_cut_off(path: Path, n_read: int) -> None:
    """Say so when a DCD file announces more frames than it holds; readers drop them silently."""
    if path.suffix.lower() != ".dcd":
        return
    with open(path, "rb") as file:
        header = file.read(12)
    little = header[:4] == b"\x54\x00\x00\x00"
    announced = int.from_bytes(header[8:12], "little" if little else "big")
    if announced > n_read:
        logger.warning(
            "%s announces %d frames but holds %d whole ones: was the run or the copy cut off?",
            path, announced, n_read,
        )  # fmt: skip
