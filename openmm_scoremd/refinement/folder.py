"""What a refinement keeps in its folder, to go on from: the frames of every round and a record."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import atomic_path, write_json
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.refinement.energy_fit import SimulatedFrames

#: Written after all else of a round: what it names is there.
RECORD = "refinement.json"


def read_record(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Return what a refinement is of, what it says about its rounds, and how often the next failed.

    Raises
    ------
    CheckpointError
        If the record is damaged.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["of"], content["rounds"], int(content.get("failed", 0))
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from error


def write_record(
    folder: Path, of: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], *, failed: int = 0
) -> None:
    """Write what :func:`read_record` reads."""
    write_json(folder / RECORD, {"of": of, "rounds": rounds, "failed": failed})


def save_simulated(
    folder: Path, number: int, simulated: SimulatedFrames, *, last_positions: NDArray[np.float64]
) -> None:
    """Write the frames of a round, and where its replicas (R, N, 3), nm, ended."""
    with atomic_path(_path(folder, number)) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            positions=last_positions,
            frames=simulated.positions.numpy(),
            region=simulated.region.numpy(),
            energy=simulated.energy.numpy(),
        )


def load_simulated(folder: Path, number: int) -> SimulatedFrames:
    """Return the frames of a round.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    arrays = _load(_path(folder, number), "frames", "region", "energy")
    return SimulatedFrames(*(torch.from_numpy(array) for array in arrays))


def load_last_positions(folder: Path, number: int) -> NDArray[np.float64]:
    """Return where the replicas of a round ended, shape (R, N, 3), nm.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    (positions,) = _load(_path(folder, number), "positions")
    return np.asarray(positions, dtype=np.float64)


def _path(folder: Path, number: int) -> Path:
    return folder / f"round_{number}.npz"


def _load(path: Path, *names: str) -> list[NDArray[Any]]:
    try:
        with np.load(path) as content:
            return [content[name] for name in names]
    except (OSError, LookupError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is missing or damaged ({error}); refine anew in another folder")
