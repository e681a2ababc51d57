"""The record that a run keeps beside its trajectories: what frames belong to, where they break."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any, Final

from openmm_scoremd.errors import DatasetError

#: What frames belong to, and where a trajectory breaks off.
SIDECAR: Final = "trajectories.json"


@dataclasses.dataclass
class TrajectoryBreaks:
    """Where trajectories break off.

    Attributes
    ----------
    restarts : list of dict
        Replica, first frame of the new piece, step, cause and reason.
    frozen : dict of int to int
        Replicas that were given up, and how many frames they have.
    """

    restarts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    frozen: dict[int, int] = dataclasses.field(default_factory=dict)

    def frames_of_all(self, frames: float, replicas: int) -> float:
        """Return the frames of all replicas, of ``frames`` that one has which is not frozen."""
        return frames * (replicas - len(self.frozen)) + sum(self.frozen.values())

    def per_frame(self, frames: float, replicas: int) -> float:
        """Return restarts per frame, all replicas together; arguments as :meth:`frames_of_all`."""
        return len(self.restarts) / max(self.frames_of_all(frames, replicas), 1.0)


@dataclasses.dataclass(frozen=True)
class TrajectoryRecord:
    """What a run says about its trajectories.

    Attributes
    ----------
    files : tuple of str
        Names of the files: one for each replica, or one for all.
    replicas : int
        Replicas, frozen ones, too.
    frames : int
        Frames of each that is not frozen.
    interval, jump_interval : int
        Time steps between frames, and between jumps of all replicas; 0: they do not jump.
    breaks : TrajectoryBreaks
        Where trajectories break off.
    """

    files: tuple[str, ...]
    replicas: int
    frames: int
    interval: int
    jump_interval: int
    breaks: TrajectoryBreaks

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> TrajectoryRecord:
        """Read the record in the folder of a run.

        Raises
        ------
        DatasetError
            If there is none, or it is damaged.
        """
        path = Path(folder) / SIDECAR
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            restarts = [
                {**entry, "replica": int(entry["replica"]), "frame": int(entry["frame"])}
                for entry in content["breaks"]
            ]
            frozen = {int(replica): int(frame) for replica, frame in content["frozen"].items()}
            record = cls(
                files=tuple(str(name) for name in content["files"]),
                replicas=int(content["replicas"]),
                frames=int(content["frames"]),
                interval=int(content["interval"]),
                jump_interval=int(content["jump_interval"]),
                breaks=TrajectoryBreaks(restarts, frozen),
            )
            if not {*frozen, *(entry["replica"] for entry in restarts)} <= {
                *range(record.replicas)
            }:
                raise ValueError("it names replicas that are not there")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            state = "missing" if isinstance(error, FileNotFoundError) else "damaged"
            raise DatasetError(f"{path} is {state} ({error}); give the trajectory files") from error
        return record

    @property
    def running(self) -> list[int]:
        """Replicas that are not frozen."""
        return [replica for replica in range(self.replicas) if replica not in self.breaks.frozen]

    def segments(self) -> list[tuple[int, int, int]]:
        """Return the pieces that one may follow in time, as :func:`unbroken_segments`."""
        starts: dict[int, set[int]] = {replica: {0} for replica in range(self.replicas)}
        for entry in self.breaks.restarts:
            starts[entry["replica"]].add(entry["frame"])
        found = []
        for replica, frames in starts.items():
            end = self.breaks.frozen.get(replica, self.frames)
            if self.jump_interval:
                jumps = range(self.jump_interval, end * self.interval, self.jump_interval)
                frames |= {step // self.interval for step in jumps}
            edges = [*sorted(frame for frame in frames if frame < end), end]
            pieces = itertools.pairwise(edges)
            found += [(replica, first, last) for first, last in pieces if last > first]
        return found


def unbroken_segments(folder: str | os.PathLike[str]) -> list[tuple[int, int, int]]:
    """Return the pieces of trajectories that one may follow in time.

    Windows of time-lagged analyses (TICA, Markov models, autocorrelations) must lie within one.

    Parameters
    ----------
    folder : path-like
        Folder of a run.

    Returns
    -------
    list of (int, int, int)
        Replica, first frame, and the frame after the last, for every piece that has frames.

    Raises
    ------
    DatasetError
        If the folder holds no record of its trajectories, or it is damaged.
    """
    return TrajectoryRecord.read(folder).segments()


def restarts_per_frame(folder: str | os.PathLike[str]) -> float:
    """Return how often replicas of a run were started again, per frame written.

    Every restart begins from an independent frame of the model. Where replicas break within a few
    frames again and again, a run holds hardly more than such frames.

    Parameters
    ----------
    folder : path-like
        Folder of a run.

    Returns
    -------
    float
        0 for a run without restarts.

    Raises
    ------
    DatasetError
        If the folder holds no record of its trajectories, or it is damaged.
    """
    record = TrajectoryRecord.read(folder)
    return record.breaks.per_frame(record.frames, record.replicas)
