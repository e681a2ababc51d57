"""Trajectories of any format in chunks, with the mistakes their readers keep silent about."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import mdtraj
import numpy.typing as npt

from openmm_scoremd.data._periodic import BondTree
from openmm_scoremd.errors import DatasetError

PathLike: TypeAlias = str | os.PathLike[str]

logger = logging.getLogger(__name__)


def atom_chunks(
    paths: Sequence[PathLike], topology: mdtraj.Topology, atoms: Sequence[int], *, chunk_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield the coordinates of some atoms, made whole where there is a periodic box.

    Parameters
    ----------
    paths : sequence of path-like
        Trajectory files, read one after another.
    topology : mdtraj.Topology
        All-atom topology.
    atoms : sequence of int
        Atoms to yield, in this order.
    chunk_size : int
        Frames at a time.

    Yields
    ------
    (frames, atoms, 3), nm
        At most ``chunk_size`` frames.

    Raises
    ------
    DatasetError
        If a file is missing, unreadable or empty, has another number of atoms, or has a periodic
        box in which no bonds join the atoms.
    """
    for path in paths:
        periodic = _check_first_frame(path, topology)
        tree = BondTree.from_topology(topology, atoms) if periodic else None
        loaded = tree.atom_indices if tree else tuple(sorted(atoms))
        columns = [loaded.index(atom) for atom in atoms]
        n_read = 0
        for chunk in _read(path, topology, chunk_size, loaded):
            n_read += chunk.n_frames
            xyz = tree.make_whole(chunk.xyz, chunk.unitcell_vectors) if tree else chunk.xyz
            yield xyz[:, columns]
        _warn_if_cut_off(Path(path), n_read)


def _check_first_frame(path: PathLike, topology: mdtraj.Topology) -> bool:
    """Refuse files of another molecule or without frames; return whether there is a box."""
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
    return first.unitcell_lengths is not None and bool((first.unitcell_lengths > 0.0).all())


def _read(
    path: PathLike, topology: mdtraj.Topology, chunk_size: int, atoms: Sequence[int] | None
) -> Iterator[mdtraj.Trajectory]:
    try:
        yield from mdtraj.iterload(
            os.fspath(path), top=topology, chunk=chunk_size, atom_indices=atoms
        )
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
