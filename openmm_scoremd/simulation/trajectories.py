"""Trajectories of replicas: reading them back, and writing frames to one file."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._io import atomic_path
from openmm_scoremd.errors import DatasetError, InvalidInputError


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
        If there are no files, or one is missing, no DCD file, cut off, empty, or has another number
        of beads.
    """
    files = _files(paths)
    replicas = [_load(file, n_beads) for file in files]
    length = min(len(frames) for frames in replicas)
    return np.stack([frames[:length] for frames in replicas])


def save_frames(frames: NDArray[np.floating], path: str | os.PathLike[str]) -> None:
    """Write frames to one DCD file, whole or not at all.

    Parameters
    ----------
    frames : ndarray, shape (frames, N, 3), nm
        What to write; stored as float32.
    path : path-like
        The ``.dcd`` file.

    Raises
    ------
    InvalidInputError
        If there are no frames or the shape is another.
    """
    in_angstrom = np.asarray(frames, dtype=np.float32) * np.float32(10.0)
    if in_angstrom.ndim != 3 or in_angstrom.shape[2] != 3 or 0 in in_angstrom.shape:
        raise InvalidInputError(
            f"frames have shape {in_angstrom.shape}; they must be (frames, beads, 3)"
        )
    with (
        atomic_path(path) as temporary,
        mdtraj.formats.DCDTrajectoryFile(os.fspath(temporary), "w", force_overwrite=True) as file,
    ):
        file.write(in_angstrom)


@contextmanager
def without_c_output() -> Iterator[None]:
    """Drop what C code prints: MDTraj's DCD reader greets every file on standard output."""
    sys.stdout.flush()
    _flush_c_streams()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        # Where standard output is no terminal, C keeps what it prints until its buffer is full.
        _flush_c_streams()
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _flush_c_streams() -> None:
    ctypes.CDLL(None).fflush(None)


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
    if not file.is_file():
        raise DatasetError(f"{file} does not exist; give a folder that holds .dcd files, or files")
    try:
        with without_c_output(), mdtraj.formats.DCDTrajectoryFile(os.fspath(file)) as trajectory:
            in_angstrom, _, _ = trajectory.read()
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{file} cannot be read as DCD ({error}); is it whole, and of a simulation?"
        ) from error
    _check_frames(file, in_angstrom, n_beads)
    nanometers: NDArray[np.float32] = in_angstrom * np.float32(0.1)
    return nanometers


def _check_frames(file: Path, frames: NDArray[np.float32], n_beads: int) -> None:
    # The reader passes over a frame that is not whole, and over all that should follow.
    announced = _announced_frames(file)
    if announced > len(frames):
        raise DatasetError(
            f"{file} announces {announced} frames and holds {len(frames)}; it was cut off: copy "
            "it again, or leave it out"
        )
    if len(frames) == 0 or frames.shape[1] != n_beads:
        raise DatasetError(
            f"{file} has {len(frames)} frames of {frames.shape[1]} beads; "
            f"the model has {n_beads} beads"
        )


def _announced_frames(file: Path) -> int:
    with open(file, "rb") as content:
        header = content.read(12)
    little = header[:4] == b"\x54\x00\x00\x00"
    return int.from_bytes(header[8:12], "little" if little else "big")
