"""Reading the trajectories of replicas back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._io import atomic_path
from openmm_scoremd.errors import DatasetError


def load_replicas(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], *, n_beads: int
) -> NDArray[np.float32]:
    """Read DCD files of replicas.

    Parameters
    ----------
    paths : sequence of path-like, or path-like
        The files in order, or a folder whose ``*.dcd`` files are taken in order of their names.
    n_beads : int
        Beads of one replica.

    Returns
    -------
    ndarray, shape (replicas, frames, n_beads, 3), nm
        All frames; replicas with more frames than the shortest are cut at the end.

    Raises
    ------
    DatasetError
        If there are no files, one cannot be read, is empty or has another number of beads.
    """
    files = _files(paths)
    replicas = [_load(file, n_beads) for file in files]
    length = min(len(frames) for frames in replicas)
    return np.stack([frames[:length] for frames in replicas])


def _files(paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[Path]:
    if isinstance(paths, (str, os.PathLike)):
        folder = Path(paths)
        files = sorted(folder.glob("*.dcd")) if folder.is_dir() else [folder]
    else:
        files = [Path(path) for path in paths]
    if not files:
        raise DatasetError(f"no .dcd files in {paths}; give a folder that holds some, or the files")
    return files


def _load(file: Path, n_beads: int) -> NDArray[np.float32]:
    try:
        with _silent_output(), mdtraj.formats.DCDTrajectoryFile(os.fspath(file)) as trajectory:
            in_angstrom, _, _ = trajectory.read()
    except (OSError, TypeError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read as DCD ({error})") from error
    if len(in_angstrom) == 0 or in_angstrom.shape[1] != n_beads:
        raise DatasetError(
            f"{file} has {len(in_angstrom)} frames of {in_angstrom.shape[1]} beads; "
            f"the model has {n_beads} beads"
        )
    nanometers: NDArray[np.float32] = in_angstrom * np.float32(0.1)
    return nanometers


def save_frames(frames: NDArray[np.floating], path: str | os.PathLike[str]) -> None:
    """Write frames to one DCD file, whole or not at all.

    Parameters
    ----------
    frames : ndarray, shape (frames, N, 3), nm
        What to write; stored as float32.
    path : path-like
        The ``.dcd`` file.
    """
    in_angstrom = np.asarray(frames, dtype=np.float32) * np.float32(10.0)
    with (
        atomic_path(path) as temporary,
        mdtraj.formats.DCDTrajectoryFile(os.fspath(temporary), "w", force_overwrite=True) as file,
    ):
        file.write(in_angstrom)


@contextmanager
def _silent_output() -> Iterator[None]:
    """Drop what C code prints: MDTraj's DCD reader greets every file on standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)
