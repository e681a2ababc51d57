"""Frames of simulations and samplers, read from their folders as what they are."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.trajectories.reading import load_replicas, replica_breaks
from openmm_scoremd.trajectories.segments import SIDECAR, TrajectoryRecord

__all__ = ["read_frames", "read_run"]

logger = logging.getLogger(__name__)

#: What `scoremd sample` writes frames to that are independent of each other.
_INDEPENDENT = "iid.dcd"
_Kind: TypeAlias = Literal["trajectories", "independent frames", "unknown"]


def read_run(folder: str | os.PathLike[str], *, n_beads: int) -> SampleSet:
    """Read the trajectories of a simulation or of ``scoremd sample --trajectory``.

    Parameters
    ----------
    folder : path-like
        Folder of a run, or any folder of trajectories. ``trajectories.json`` there says how far
        apart frames are, at which frames replicas were started again, so that nothing looks
        across, and how often; ``run.json`` tells the first for other trajectories. Both may be
        missing. Of a run that was killed, what all replicas have written counts.
    n_beads : int
        Beads of one replica.

    Returns
    -------
    SampleSet
        Frames, breaks, restarts, jumps, frozen replicas, time between frames.

    Raises
    ------
    DatasetError
        If a trajectory or the record of the run cannot be read.
    InvalidInputError
        If the frames are independent and have no time, or all replicas are frozen.
    """
    path = Path(folder)
    if _kind(path) == "independent frames":
        raise InvalidInputError(
            f"{path} holds independent frames, which do not follow each other in time; give them "
            "as independent frames (--iid)"
        )
    record = TrajectoryRecord.read(path) if (path / SIDECAR).is_file() else None
    if record is not None and not record.running:
        raise InvalidInputError(
            f"all {record.replicas} replicas of {path} broke and are frozen; simulate again with a "
            "shorter time step"
        )
    positions = load_replicas(folder, n_beads=n_beads)
    if not path.is_dir():
        return SampleSet(positions)
    length = positions.shape[1]
    # A killed run may have noted breaks of frames that it did not come to write.
    breaks = {
        replica: [frame for frame in frames if frame < length]
        for replica, frames in replica_breaks(path).items()
    }
    found = SampleSet(positions, breaks=breaks, frame_interval=_frame_interval(path))
    if record is None:
        return found
    jumps = record.interval / record.jump_interval if record.jump_interval else 0.0
    return dataclasses.replace(
        found,
        restarts_per_frame=record.breaks.per_frame(record.frames, record.replicas),
        jumps_per_frame=jumps,
        n_frozen=len(record.breaks.frozen),
    )


def read_frames(folder: str | os.PathLike[str], *, n_beads: int) -> NDArray[np.float32]:
    """Read independent frames (frames, N, 3) in nm, all DCD files of a folder or one such file.

    Raises
    ------
    DatasetError
        If they cannot be read.
    InvalidInputError
        If they are frames of a simulation or another trajectory, which follow each other in time.
    """
    path = Path(folder)
    if _kind(path) == "trajectories":
        raise InvalidInputError(
            f"{path} holds trajectories, whose frames follow each other in time and are not "
            "independent; give them as a simulation (--simulation) or as denoising trajectories "
            "(--trajectories)"
        )
    return np.concatenate([*load_replicas(folder, n_beads=n_beads)])


def _kind(path: Path) -> _Kind:
    """Say what a folder, or a file in one, holds, as far as its records and names tell."""
    folder = path if path.is_dir() else path.parent
    of_run = path == folder or path.name.startswith("replica")
    if of_run and ((folder / SIDECAR).is_file() or any(folder.glob("replica_[0-9]*.*"))):
        return "trajectories"
    if (path / _INDEPENDENT).is_file() or path.name == _INDEPENDENT:
        return "independent frames"
    return "unknown"


def _frame_interval(folder: Path) -> float | None:
    """Return the time between frames in ps that the records of a folder tell, if they do."""
    reasons = []
    # A run that is not at its end, or was made in Python, has only the first.
    for name in (SIDECAR, "run.json"):
        try:
            found = _recorded_interval(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, LookupError, TypeError, ValueError) as error:
            reasons.append(f"{name}: {error!r}")
            continue
        return found if 0.0 < found < float("inf") else None
    logger.warning("the time between frames is unknown (%s)", "; ".join(reasons))
    return None


def _recorded_interval(record: Any) -> float:
    if "timestep_ps" in record:
        return float(record["timestep_ps"]) * float(record["interval"])
    results, arguments = record["results"], record["arguments"]
    if "frame_interval_ps" in results:
        return float(results["frame_interval_ps"])
    return float(arguments["timestep"]) * float(arguments["interval"])
