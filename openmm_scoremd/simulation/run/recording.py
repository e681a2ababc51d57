"""What a run writes: trajectories, state data, and a record of where trajectories break off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.simulation.run.folder import SIDECAR
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.trajectories.appendable_files import (
    Codec,
    CSVCodec,
    DCDCodec,
    GrowingFile,
    NpyCodec,
    XTCCodec,
)
from openmm_scoremd.trajectories.reporters import replica_paths

FloatArray: TypeAlias = NDArray[np.float64]

#: Frames between two rows of state data: they stay at a hundredth of the trajectories.
FRAMES_PER_STATE = 10
#: Numbers of every replica in a row of ``state.npy``.
STATE_COLUMNS = ("potential energy of the model, kJ/mol", "temperature, K")

_SUMMARY = {
    "step": ".0f",
    "time_ps": ".10g",
    "running": ".0f",
    "temperature_K": ".3f",
    "potential_energy_kJ_per_mol": ".4f",
    "lowest_energy": ".4f",
    "highest_energy": ".4f",
    "restarts": ".0f",
    "ns_per_day": ".2f",
    "replica_steps_per_s": ".0f",
}
_BUFFER_BYTES, _BUFFER_FRAMES = 32 << 20, 1000


@dataclasses.dataclass
class Marks:
    """Where trajectories break off.

    Attributes
    ----------
    breaks : list of dict
        Replica, first frame of the new piece, step, cause and reason.
    frozen : dict of int to int
        Replicas that were given up, and how many frames they have.
    """

    breaks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    frozen: dict[int, int] = dataclasses.field(default_factory=dict)


class Recorder:
    """The files of a run.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    settings : RunSettings
        Formats and intervals.
    topology : BeadTopology
        Beads of one replica.
    centred : bool
        Whether frames are stored with the mean of every replica's beads at the origin.
    marks : Marks
        Where trajectories break off; read before frames are written.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        topology: BeadTopology,
        *,
        centred: bool,
        marks: Marks,
    ) -> None:
        self._folder, self._settings, self._marks = folder, settings, marks
        self._centred = centred
        self._trajectories = [
            GrowingFile(path, self._trajectory_codec(topology)) for path in self._paths()
        ]
        self._state = GrowingFile(
            folder / "state.npy", NpyCodec((settings.replicas, len(STATE_COLUMNS)))
        )
        self._summary = GrowingFile(folder / "state.csv", CSVCodec(_SUMMARY))
        size = 24 * settings.replicas * topology.n_beads
        capacity = min(max(_BUFFER_BYTES // size, 1), _BUFFER_FRAMES)
        self._buffer = np.empty((capacity, settings.replicas, topology.n_beads, 3))
        self._buffered = 0

    @property
    def frames(self) -> int:
        """Frames recorded so far."""
        rows = max(file.rows for file in self._trajectories)
        return rows + self._buffered

    def create(self) -> None:
        """Make all files, without rows."""
        for file in self._files():
            file.create()
        self._write_sidecar()

    def record(self, frames: FloatArray) -> None:
        """Keep frames (R, N, 3), nm, in memory until there are many, then write them."""
        if self._centred:
            frames = frames - frames.mean(axis=1, keepdims=True)
        self._buffer[self._buffered] = frames
        self._buffered += 1
        if self._buffered == len(self._buffer):
            self.flush()

    def record_state(
        self, step: int, energies: FloatArray, temperatures: FloatArray, speed: float
    ) -> None:
        """Write a row of state data.

        Parameters
        ----------
        step : int
            Time step.
        energies, temperatures : ndarray, shape (R,), kJ/mol and K
            Of every replica; NaN where it is frozen.
        speed : float
            Time steps per second.
        """
        settings = self._settings
        numbers = [
            step,
            step * settings.timestep,
            settings.replicas - len(self._marks.frozen),
            np.nanmean(temperatures),
            np.nanmean(energies),
            np.nanmin(energies),
            np.nanmax(energies),
            len(self._marks.breaks),
            speed * settings.timestep * 1e-3 * 86400.0,
            speed * settings.replicas,
        ]
        self._state.append(np.stack([energies, temperatures], axis=1)[None])
        self._summary.append(np.array([numbers], dtype=np.float64))

    def flush(self) -> None:
        """Write what is in memory."""
        if self._buffered == 0:
            return
        # First: a frame after a break must never be there without its mark.
        self._write_sidecar()
        frames = self._buffer[: self._buffered]
        if self._settings.files == "combined":
            self._trajectories[0].append(frames.reshape(len(frames), -1, 3))
        else:
            for replica, file in enumerate(self._trajectories):
                if replica not in self._marks.frozen:
                    file.append(frames[:, replica])
        self._buffered = 0

    def sync(self) -> None:
        """Write what is in memory and wait until all is on the disk."""
        self.flush()
        for file in self._files():
            file.sync()

    def sizes(self) -> dict[str, list[int]]:
        """Return rows and bytes of all files."""
        files = list(self._files())
        return {"rows": [file.rows for file in files], "bytes": [file.length for file in files]}

    def restore(self, sizes: Mapping[str, Any]) -> None:
        """Cut all files back to sizes that :meth:`sizes` returned.

        Raises
        ------
        CheckpointError
            If a file is missing or too short.
        """
        files = list(self._files())
        if len(sizes["rows"]) != len(files) or len(sizes["bytes"]) != len(files):
            raise CheckpointError(
                f"the checkpoint knows {len(sizes['rows'])} files, the run has {len(files)}; "
                "start again in another folder"
            )
        for file, rows, length in zip(files, sizes["rows"], sizes["bytes"], strict=True):
            file.rows, file.length = int(rows), int(length)
            file.cut()
        self._write_sidecar()

    def _files(self) -> Iterator[GrowingFile]:
        yield from self._trajectories
        yield self._state
        yield self._summary

    def _paths(self) -> list[Path]:
        suffix = f".{self._settings.format}"
        if self._settings.files == "combined":
            return [self._folder / f"replicas{suffix}"]
        paths = replica_paths(self._folder, self._settings.replicas)
        return [path.with_suffix(suffix) for path in paths]

    def _trajectory_codec(self, topology: BeadTopology) -> Codec:
        timestep, interval = self._settings.timestep, self._settings.interval
        if self._settings.format == "xtc":
            return XTCCodec(timestep=timestep, interval=interval)
        copies = self._settings.replicas if self._settings.files == "combined" else 1
        particles = topology.to_openmm(replicas=copies)
        return DCDCodec(particles, timestep=timestep, interval=interval)

    def _write_sidecar(self) -> None:
        settings = self._settings
        jumps = "every replica, to an independent frame, approximate (no Metropolis test)"
        content = {
            "files": [path.name for path in self._paths()],
            "replicas": settings.replicas,
            "frames": self.frames,
            "interval": settings.interval,
            "timestep_ps": settings.timestep,
            "first_frame_step": settings.interval,
            "equilibration": settings.equilibration,
            "jump_interval": settings.jump_interval,
            "jumps": jumps if settings.jump_interval else "",
            "breaks": self._marks.breaks,
            "frozen": {str(replica): frame for replica, frame in self._marks.frozen.items()},
            "state_columns": STATE_COLUMNS,
            "state_interval": FRAMES_PER_STATE * settings.interval,
        }
        write_json(self._folder / SIDECAR, content)
