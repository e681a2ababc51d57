"""Trajectories of replicas: reading them back, and writing frames to one file."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.trajectories.formats import DCDFormat, frames_announced
from openmm_scoremd.trajectories.segments import SIDECAR, TrajectoryRecord

logger = logging.getLogger(__name__)

_WRITTEN_TOGETHER = 10_000  # frames


def load_replicas(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], *, n_beads: int
) -> NDArray[np.float32]:
    """Read DCD or XTC files of replicas.

    Parameters
    ----------
    paths : sequence of path-like, or path-like
        The files in order; or the folder of a run, of which frozen replicas are left out with a
        warning in the log; or another folder, whose ``*.dcd`` and ``*.xtc`` files are taken in
        order of their names.
    n_beads : int
        Beads of one replica.

    Returns
    -------
    ndarray, shape (replicas, frames, n_beads, 3), nm
        All frames; replicas with more frames than the shortest are cut at the end.

    Raises
    ------
    DatasetError
        If there are no files, or one is missing, no trajectory, cut off, empty, or has another
        number of beads.
    """
    if not _is_run(paths):
        files = _files(paths)
    else:
        folder, record = Path(str(paths)), TrajectoryRecord.read(str(paths))
        if record.breaks.frozen:
            frozen = len(record.breaks.frozen)
            logger.warning("%d replicas broke and are frozen; they are left out", frozen)
        if len(record.files) != record.replicas:
            together = _load(folder / record.files[0], record.replicas * n_beads)
            frames = together.reshape(len(together), record.replicas, n_beads, 3)
            return np.ascontiguousarray(frames.swapaxes(0, 1)[record.running])
        files = [folder / record.files[replica] for replica in record.running]
    replicas = [_load(file, n_beads) for file in files]
    length = min(len(frames) for frames in replicas)
    return np.stack([frames[:length] for frames in replicas])


def trajectory_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files behind a name: itself, or the trajectories in a folder, in order.

    Raises
    ------
    DatasetError
        If a folder holds none.
    """
    return _files(path)


def replica_breaks(folder: str | os.PathLike[str]) -> dict[int, list[int]]:
    """Return the frames at which replicas were started again, or jumped.

    Parameters
    ----------
    folder : path-like
        Folder of a run, or any other, which has no breaks.

    Returns
    -------
    dict of int to list of int
        Frames by replica, counted as in the output of :func:`load_replicas`.

    Raises
    ------
    DatasetError
        If the run's record of its trajectories is damaged.
    """
    if not _is_run(folder):
        return {}
    record = TrajectoryRecord.read(folder)
    running = record.running
    breaks: dict[int, list[int]] = {}
    for replica, first, _ in record.segments():
        if first > 0 and replica in running:
            breaks.setdefault(running.index(replica), []).append(first)
    return breaks


def load_start_frames(path: str | os.PathLike[str], *, n_beads: int, n: int) -> NDArray[np.float64]:
    """Read frames to begin from.

    Parameters
    ----------
    path : path-like
        A ``.dcd``, ``.xtc`` or ``.pdb`` file of the beads; a CG dataset (``.npz``); the folder of a
        run, of which the last frame of every replica is taken; or another folder of trajectories,
        of which all are.
    n_beads : int
        Beads of one replica.
    n : int
        Frames wanted: taken evenly from the file, or several times where it holds fewer.

    Returns
    -------
    ndarray, shape (n, n_beads, 3), nm
        Frames.

    Raises
    ------
    DatasetError
        If the file cannot be read, is empty, or has another number of beads.
    """
    file = Path(path)
    frames: NDArray[np.floating]
    if file.is_dir():
        replicas = load_replicas(file, n_beads=n_beads)
        frames = replicas[:, -1] if _is_run(file) else np.concatenate(list(replicas))
    elif file.suffix == ".npz":
        frames = _dataset_frames(file)
        _check_frames(file, frames, n_beads)
    elif file.suffix == ".pdb":
        import mdtraj  # slow to import, and not for a simulation from independent frames

        try:
            frames = mdtraj.load_pdb(os.fspath(file)).xyz
        # MDTraj raises many types on files that are no PDB.
        except Exception as error:
            raise DatasetError(f"{file} cannot be read as PDB ({error})") from error
        _check_frames(file, frames, n_beads)
    else:
        frames = _load(file, n_beads)
    if len(frames) < n:
        chosen = np.arange(n) % len(frames)
    else:
        chosen = np.rint(np.linspace(0, len(frames) - 1, n)).astype(np.int64)
    return np.asarray(frames[chosen], dtype=np.float64)


def _dataset_frames(file: Path) -> NDArray[np.floating]:
    """Return the frames of a dataset, (frames, N, 3), whatever else is in it."""
    try:
        with np.load(file, allow_pickle=False) as content:
            frames = np.asarray(content["positions"])
    # A damaged archive makes zipfile and NumPy raise almost anything.
    except Exception as error:
        raise DatasetError(f"{file} is no CG dataset ({error})") from error
    if frames.ndim != 3 or frames.dtype.kind != "f" or frames.shape[2] not in (2, 3):
        raise DatasetError(f"{file} is no CG dataset: positions have shape {frames.shape}")
    return np.pad(frames, [(0, 0), (0, 0), (0, 3 - frames.shape[2])])


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
    stored = np.asarray(frames, dtype=np.float32)
    if stored.ndim != 3 or stored.shape[2] != 3 or 0 in stored.shape:
        raise InvalidInputError(
            f"frames have shape {stored.shape}; they must be (frames, beads, 3)"
        )
    dcd = DCDFormat(stored.shape[1], timestep=1.0, interval=1)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(dcd.header(len(stored)))
        for first in range(0, len(stored), _WRITTEN_TOGETHER):
            file.write(dcd.encode(stored[first : first + _WRITTEN_TOGETHER], first))


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


def _is_run(paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
    return isinstance(paths, (str, os.PathLike)) and (Path(paths) / SIDECAR).is_file()


def _files(paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[Path]:
    if isinstance(paths, (str, os.PathLike)):
        folder = Path(paths)
        found = sorted([*folder.glob("*.dcd"), *folder.glob("*.xtc")])
        files = found if folder.is_dir() else [folder]
    else:
        files = [Path(path) for path in paths]
    if not files:
        raise DatasetError(f"no .dcd files in {paths}; give a folder that holds some, or the files")
    return files


def _load(file: Path, n_beads: int) -> NDArray[np.float32]:
    if not file.is_file():
        raise DatasetError(f"{file} does not exist; give a folder that holds .dcd files, or files")
    import mdtraj

    is_xtc = file.suffix == ".xtc"
    reader = mdtraj.formats.XTCTrajectoryFile if is_xtc else mdtraj.formats.DCDTrajectoryFile
    try:
        with without_c_output(), reader(os.fspath(file)) as trajectory:
            stored = trajectory.read()[0]
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        kind = "XTC" if is_xtc else "DCD"
        raise DatasetError(
            f"{file} cannot be read as {kind} ({error}); is it whole, and of a simulation?"
        ) from error
    if not is_xtc:
        _check_announced(file, stored)
    _check_frames(file, stored, n_beads)
    nanometers: NDArray[np.float32] = stored if is_xtc else stored * np.float32(0.1)
    return nanometers


def _check_announced(file: Path, frames: NDArray[np.float32]) -> None:
    # The reader passes over a frame that is not whole, and over all that should follow.
    announced = frames_announced(file)
    if announced > len(frames):
        raise DatasetError(
            f"{file} announces {announced} frames and holds {len(frames)}; it was cut off: copy "
            "it again, or leave it out"
        )


def _check_frames(file: Path, frames: NDArray[np.float32], n_beads: int) -> None:
    if len(frames) == 0 or frames.shape[1] != n_beads:
        raise DatasetError(
            f"{file} has {len(frames)} frames of {frames.shape[1]} beads; "
            f"the model has {n_beads} beads"
        )
