"""The folder of a run: one process at a time, its settings, its checkpoint, what broke."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import atomic_path, write_json
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.trajectories.segments import SIDECAR

FloatArray: TypeAlias = NDArray[np.float64]

#: Settings of the run, the model's hash and the limits that replicas are watched for.
SETTINGS: Final = "simulation.json"
#: State of the last checkpoint.
CHECKPOINT: Final = "checkpoint.npz"
#: Folder of replicas that broke: their last good state and the bad frame.
FAILURES: Final = "failures"

LOCK = ".lock"
_SCHEMA_VERSION = 1
# What NumPy, zipfile and zlib raise on damaged files.
_DAMAGES = (
    *(OSError, ValueError, KeyError, EOFError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, TypeError),
    *(MemoryError, struct.error, SyntaxError, tokenize.TokenError),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to go on.

    Attributes
    ----------
    header : mapping
        Plain JSON: step, file lengths, breaks and counters.
    arrays : mapping of str to ndarray
        Positions, velocities and sums.
    context : bytes
        ``Context.createCheckpoint()``: with the random numbers, for the same platform and version.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    context: bytes

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        header = json.dumps({"schema_version": _SCHEMA_VERSION, **self.header})
        entries: dict[str, Any] = {
            "header": np.frombuffer(header.encode(), dtype=np.uint8),
            "context": np.frombuffer(self.context, dtype=np.uint8),
            **self.arrays,
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **entries)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; every part has a checksum, and nothing in it is executed.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged or of another version.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes())
            context = arrays.pop("context").tobytes()
            version = header.pop("schema_version")
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} does not exist: there is nothing to resume") from error
        except _DAMAGES as error:
            raise CheckpointError(
                f"{path} is damaged or no checkpoint ({error}); start again in another folder"
            ) from error
        if version != _SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} has schema version {version}; this package reads {_SCHEMA_VERSION}"
            )
        return cls(header, arrays, context)


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Leave nothing in the folder where a run could not even begin."""
    try:
        yield
    except BaseException:
        remove_files(folder)
        for name in (SETTINGS, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let nobody else write to a folder; the system opens the lock when a process dies.

    Raises
    ------
    CheckpointError
        If another process works there.
    """
    import fcntl  # Not there on Windows, where everything but runs works.

    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process before may have removed the file between the two lines.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except OSError as error:
            os.close(descriptor)
            raise CheckpointError(
                f"another process works in {folder}; wait for it, stop it, or use another folder"
            ) from error
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a run.

    Raises
    ------
    CheckpointError
        If there are none, or they are damaged.
    """
    path = folder / SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist, so there is nothing to resume") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); start again elsewhere") from error
    if not isinstance(content, dict) or content.get("schema_version") != _SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} is not of schema version {_SCHEMA_VERSION}, the one that this package reads"
        )
    return content


def write_settings(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the settings of a run, whole or not at all."""
    write_json(folder / SETTINGS, {"schema_version": _SCHEMA_VERSION, **content})


def write_failure(
    folder: Path,
    *,
    replica: int,
    step: int,
    reason: str,
    good: tuple[FloatArray, FloatArray],
    bad: FloatArray,
) -> Path:
    """Write what is known about a replica that broke.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    replica, step : int
        Which one, and when it was found.
    reason : str
        What was wrong.
    good : (ndarray, ndarray), shape (N, 3) each, nm and nm/ps
        Its last good positions and velocities.
    bad : ndarray, shape (N, 3), nm
        The bad frame.

    Returns
    -------
    Path
        ``failures/replica_0003_step_1250.npz``.
    """
    path = folder / FAILURES / f"replica_{replica:04d}_step_{step}.npz"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            reason=np.array(reason),
            step=np.array(step),
            good_positions=good[0],
            good_velocities=good[1],
            bad_positions=bad,
        )
    return path


def remove_temporary_files(folder: Path) -> None:
    """Remove what a process leaves that was killed while it wrote a file."""
    for path in [*folder.glob(".*.part*"), *(folder / FAILURES).glob(".*.part*")]:
        path.unlink()


def remove_files(folder: Path) -> None:
    """Remove what a run leaves that was stopped before its first checkpoint."""
    patterns = ("replica_*.dcd", "replica_*.xtc", "replicas.*", "state.*", "topology.*", SIDECAR)
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
