"""What a run writes: trajectories, state data, and a record of where trajectories break off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.trajectories.appendable_files import AppendableFile, FileFormat
from openmm_scoremd.trajectories.formats import CSVFormat, DCDFormat, NpyFormat, XTCFormat
from openmm_scoremd.trajectories.reporters import replica_paths
from openmm_scoremd.trajectories.segments import SIDECAR, TrajectoryBreaks

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
    "restarts_per_frame": ".4g",
    "ns_per_day": ".2f",
    "replica_steps_per_s": ".0f",
}
_BUFFER_BYTES, _BUFFER_FRAMES = 32 << 20, 1000


class FrameRecorder(Protocol):
    """Where a simulation that is watched leaves its frames."""

    @property
    def frames(self) -> int:
        """Frames recorded so far."""

    def record(self, frames: FloatArray) -> None:
        """Keep frames (R, N, 3), nm, of one moment."""

    def record_state(
        self, step: int, energies: FloatArray, temperatures: FloatArray, speed: float
    ) -> None:
        """Keep a row of state data; see :meth:`Recorder.record_state`."""

    def flush(self) -> None:
        """Write what is in memory."""


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
    breaks : TrajectoryBreaks
        Where trajectories break off; read before frames are written.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        topology: BeadTopology,
        *,
        centred: bool,
        breaks: TrajectoryBreaks,
    ) -> None:
        self._folder, self._settings, self._breaks = folder, settings, breaks
        self._centred = centred
        self._trajectories = [
            AppendableFile(path, self._trajectory_format(topology)) for path in self._paths()
        ]
        self._state = AppendableFile(
            folder / "state.npy", NpyFormat((settings.replicas, len(STATE_COLUMNS)))
        )
        self._columns = _columns(folder / "state.csv")
        self._summary = AppendableFile(folder / "state.csv", CSVFormat(self._columns))
        size = 24 * settings.replicas * topology.n_beads
        capacity = min(max(_BUFFER_BYTES // size, 1), _BUFFER_FRAMES)
        self._buffer = np.empty((capacity, settings.replicas, topology.n_beads, 3))
        self._buffered = 0

    @property
    def frames(self) -> int:
        """Frames recorded so far."""
        rows = max(file.rows for file in self._trajectories)
        return rows + self._buffered

    @property
    def restarts_per_frame(self) -> float:
        """Restarts per frame, all replicas together."""
        return self._breaks.per_frame(self.frames, self._settings.replicas)

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
        numbers = {
            "step": step,
            "time_ps": step * settings.timestep,
            "running": settings.replicas - len(self._breaks.frozen),
            "temperature_K": np.nanmean(temperatures),
            "potential_energy_kJ_per_mol": np.nanmean(energies),
            "lowest_energy": np.nanmin(energies),
            "highest_energy": np.nanmax(energies),
            "restarts": len(self._breaks.restarts),
            "restarts_per_frame": self.restarts_per_frame,
            "ns_per_day": speed * settings.timestep * 1e-3 * 86400.0,
            "replica_steps_per_s": speed * settings.replicas,
        }
        row = [[numbers[name] for name in self._columns]]
        self._state.append(np.stack([energies, temperatures], axis=1)[None])
        self._summary.append(np.array(row, dtype=np.float64))

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
                if replica not in self._breaks.frozen:
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

    def _files(self) -> Iterator[AppendableFile]:
        yield from self._trajectories
        yield self._state
        yield self._summary

    def _paths(self) -> list[Path]:
        suffix = f".{self._settings.format}"
        if self._settings.files == "combined":
            return [self._folder / f"replicas{suffix}"]
        paths = replica_paths(self._folder, self._settings.replicas)
        return [path.with_suffix(suffix) for path in paths]

    def _trajectory_format(self, topology: BeadTopology) -> FileFormat:
        timestep, interval = self._settings.timestep, self._settings.interval
        if self._settings.format == "xtc":
            return XTCFormat(timestep=timestep, interval=interval)
        copies = self._settings.replicas if self._settings.files == "combined" else 1
        return DCDFormat(copies * topology.n_beads, timestep=timestep, interval=interval)

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
            "breaks": self._breaks.restarts,
            "frozen": {str(replica): frame for replica, frame in self._breaks.frozen.items()},
            "state_columns": STATE_COLUMNS,
            "state_interval": FRAMES_PER_STATE * settings.interval,
        }
        write_json(self._folder / SIDECAR, content)


def _columns(path: Path) -> dict[str, str]:
    """Return the columns of state data; a run that began before one was added goes on without."""
    if not path.is_file():
        return _SUMMARY
    with path.open(encoding="utf-8", errors="replace") as file:
        names = file.readline().strip().split(",")
    return {name: kind for name, kind in _SUMMARY.items() if name in names} or _SUMMARY
