"""Steps of a run: what is due when."""

from __future__ import annotations

import time
from typing import TypeAlias

import numpy as np
import openmm
from numpy.typing import NDArray

from openmm_scoremd.errors import NumericalError
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.recording import FRAMES_PER_STATE, FrameRecorder
from openmm_scoremd.simulation.run.restarts import Restarts
from openmm_scoremd.simulation.run.settings import RunSettings

FloatArray: TypeAlias = NDArray[np.float64]

#: Replicas are looked at whenever the step is a multiple of this, and before every frame.
CHECK_STEPS = 50
#: Molecules this far away (nm) are moved back by whole nanometers, which rounds nothing.
_FAR = 2.0
_PIECE_SECONDS = 0.3  # longest time without looking whether the run is to stop


class Stepper:
    """Advances the replicas of a run and does what is due at every step.

    What happens depends on the step alone, never on the clock or on how a run was cut in pieces.

    Parameters
    ----------
    simulation : ReplicaSimulation
        The replicas.
    settings : RunSettings
        Intervals.
    recorder : FrameRecorder
        Where frames and state data go.
    restarts : Restarts
        Replaces replicas that broke.
    """

    def __init__(
        self,
        simulation: ReplicaSimulation,
        settings: RunSettings,
        recorder: FrameRecorder,
        restarts: Restarts,
    ) -> None:
        self._simulation, self._settings = simulation, settings
        self._recorder, self._restarts = recorder, restarts
        self._recentres = settings.recentring == "on" or (
            settings.recentring == "auto"
            and simulation.model.metadata.translation_invariant
            and not simulation.added_forces_sha256
        )
        self._temperatures = np.zeros(settings.replicas)
        self._samples = 0
        self._piece = 1
        self._speed, self._timed = 0.0, (time.perf_counter(), simulation.current_step)

    @property
    def speed(self) -> float:
        """Time steps per second, lately; 0 before anything was timed."""
        now, (then, step) = time.perf_counter(), self._timed
        made = self._simulation.current_step - step
        return made / max(now - then, 1e-9) if made > 0 else self._speed

    def start_clock(self) -> None:
        """Time from now on."""
        self._speed = self.speed
        self._timed = (time.perf_counter(), self._simulation.current_step)

    def sums(self) -> tuple[FloatArray, int]:
        """Return sums of temperatures since the last row of state data, and their number."""
        return self._temperatures, self._samples

    def restore(self, temperatures: FloatArray, samples: int) -> None:
        """Go on from what :meth:`sums` returned."""
        self._temperatures, self._samples = temperatures.copy(), samples

    def advance(self) -> None:
        """Make some steps, at most to where something is due, and do it.

        Raises
        ------
        NumericalError
            If OpenMM fails, a replica broke and that is to stop the run, replicas break more often
            than they simulate, or all are frozen.
        KeyboardInterrupt
            After Ctrl-C.
        """
        simulation, before = self._simulation, self._simulation.current_step
        jump = self._settings.jump_interval
        # Before steps, not after them: the end of a run that is made longer later is no exception.
        if jump and before > 0 and before % jump == 0:
            self._restarts.jump()
        due = self._due()
        target = min(due, before + self._piece, self._settings.steps)
        began = time.perf_counter()
        try:
            simulation.advance(target - before)
        # OpenMM's CPU platform stops at NaN with a message that names no replica.
        except openmm.OpenMMException as error:
            if np.isfinite(simulation.positions).all():
                raise NumericalError(
                    f"OpenMM stopped after step {simulation.current_step}: {error}"
                ) from error
            self._restarts.inspect(self._recorder)
            return
        seconds = max((time.perf_counter() - began) / (target - before), 1e-9)
        self._piece = int(min(max(_PIECE_SECONDS / seconds, 1), CHECK_STEPS))
        if target == due:
            self._look()

    def _due(self) -> int:
        settings, step = self._settings, self._simulation.current_step
        intervals = [CHECK_STEPS, settings.interval]
        intervals += [settings.jump_interval] if settings.jump_interval else []
        return min((step // every + 1) * every for every in intervals)

    def _look(self) -> None:
        """Do what is due at this step: replace, move back, record."""
        settings, step = self._settings, self._simulation.current_step
        frame_is_due = step > 0 and step % settings.interval == 0
        state_is_due = frame_is_due and step % (FRAMES_PER_STATE * settings.interval) == 0
        energies = self._restarts.inspect_energies(self._recorder) if state_is_due else None
        positions, velocities = self._restarts.inspect(self._recorder)
        if step > 0:
            self._temperatures += self._restarts.temperatures(velocities)
            self._samples += 1
        if frame_is_due:
            if self._recentres:
                positions = self._recentred(positions, velocities)
            self._recorder.record(positions)
        if energies is not None:
            means = self._temperatures / self._samples
            self._recorder.record_state(step, energies, means, self.speed)
            self.restore(np.zeros_like(means), 0)
            self.start_clock()
        self._restarts.remember(positions, velocities)

    def _recentred(self, positions: FloatArray, velocities: FloatArray) -> FloatArray:
        # Whole nanometers are subtracted without rounding from what is larger: the shape stays as
        # it is to the last bit.
        shifts = np.rint(positions.mean(axis=1, keepdims=True))
        far = (np.abs(shifts) >= _FAR).any(axis=2, keepdims=True)
        if not far.any():
            return positions
        moved = positions - np.where(far, shifts, 0.0)
        self._simulation.set_phase_space(moved, velocities)
        return moved
