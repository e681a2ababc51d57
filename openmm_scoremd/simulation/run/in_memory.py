"""A watched simulation whose frames stay in memory, for what looks at them at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.run.recording import FRAMES_PER_STATE
from openmm_scoremd.simulation.run.restarts import Restarts
from openmm_scoremd.simulation.run.settings import RunSettings
from openmm_scoremd.simulation.run.start import StartFrames, make_simulation, warn_of_timestep
from openmm_scoremd.simulation.run.stepping import Stepper
from openmm_scoremd.trajectories.segments import TrajectoryBreaks

FloatArray: TypeAlias = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedFrames:
    """Frames of a simulation whose replicas were watched.

    Attributes
    ----------
    positions : ndarray, shape (R, F, N, 3), nm
        All frames, those of restarted and frozen replicas, too; all are finite.
    breaks : TrajectoryBreaks
        Where replicas were restarted or frozen.
    """

    positions: FloatArray
    breaks: TrajectoryBreaks

    def usable(self, discarded: int) -> NDArray[np.bool_]:
        """Tell which frames are of whole molecules that forgot where they began, shape (R, F).

        Parameters
        ----------
        discarded : int
            Frames that a replica needs to forget its start, the first or a later one. As many as
            lie between two looks at energies do not count before a restart either.
        """
        usable = np.ones(self.positions.shape[:2], dtype=np.bool_)
        usable[:, :discarded] = False
        for entry in self.breaks.restarts:
            first = max(entry["frame"] - FRAMES_PER_STATE, 0)
            usable[entry["replica"], first : entry["frame"] + discarded] = False
        for replica, frame in self.breaks.frozen.items():
            usable[replica, max(frame - FRAMES_PER_STATE, 0) :] = False
        return usable


class _Memory:
    """Keeps frames and nothing else."""

    def __init__(self, shape: tuple[int, ...], progress: Callable[[float], None]) -> None:
        self.positions = np.empty(shape)
        self.frames = 0
        self._progress = progress

    def record(self, frames: FloatArray) -> None:
        self.positions[:, self.frames] = frames
        self.frames += 1
        self._progress(self.frames / self.positions.shape[1])

    def record_state(
        self, step: int, energies: FloatArray, temperatures: FloatArray, speed: float
    ) -> None:
        pass

    def flush(self) -> None:
        pass


def simulate_in_memory(
    model: ScoreModelFile,
    settings: RunSettings,
    start: FloatArray,
    *,
    failures: Path,
    progress: Callable[[float], None],
) -> WatchedFrames:
    """Simulate as a :class:`~openmm_scoremd.simulation.run.replica_run.ReplicaRun` does.

    Parameters
    ----------
    model : ScoreModelFile
        What to simulate.
    settings : RunSettings
        How; formats and checkpoints are none.
    start : ndarray, shape (R, N, 3), nm
        Where replicas begin.
    failures : Path
        Folder in which what is known about broken replicas is written.
    progress : callable
        Called with the part that is done, after every frame.

    Raises
    ------
    InvalidInputError
        If start frames are outside the limits, or a setting does not fit the model.
    NumericalError
        If OpenMM fails, replicas break more often than they simulate, or all are frozen.
    KeyboardInterrupt
        After Ctrl-C.
    """
    frames, guard = StartFrames.of(start).frames_and_guard(model, settings)
    warn_of_timestep(model, settings)
    simulation = make_simulation(model, settings, None, settings.seed)
    simulation.set_positions(frames)
    breaks = TrajectoryBreaks()
    shape = (len(frames), settings.steps // settings.interval, *frames.shape[1:])
    memory = _Memory(shape, progress)
    restarts = Restarts(failures, simulation, settings, guard, breaks)
    restarts.remember(*simulation.phase_space())
    stepper = Stepper(simulation, settings, memory, restarts)
    while simulation.current_step < settings.steps:
        stepper.advance()
    restarts.finish(memory.frames)
    return WatchedFrames(memory.positions, breaks)
