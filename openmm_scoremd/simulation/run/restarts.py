"""Replicas that broke: they alone are restarted or frozen, and the others notice nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.artifact.torchscript import unoptimised
from openmm_scoremd.errors import NumericalError
from openmm_scoremd.geometry import kabsch_align
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.replicas import ReplicaSimulation
from openmm_scoremd.simulation.run.folder import write_failure
from openmm_scoremd.simulation.run.guards import Guard
from openmm_scoremd.simulation.run.recording import FrameRecorder
from openmm_scoremd.simulation.run.settings import RunSettings, derived_seed
from openmm_scoremd.trajectories.segments import TrajectoryBreaks
from openmm_scoremd.units import MOLAR_GAS_CONSTANT

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]

#: A replica that breaks so often before its next frame is given up.
MOST_RESTARTS_BEFORE_A_FRAME = 5
#: A run with more restarts per frame than this is no simulation, and ends with an error.
MOST_RESTARTS_PER_FRAME = 0.5

_DRAWS, _DRAWN_TOGETHER = 5, 8
_RESTART, _JUMP, _VELOCITIES = 1, 2, 3  # purposes of random numbers


class Restarts:
    """Watches the replicas of a run.

    All random numbers are functions of seed, purpose, replica and step, so that what happens to one
    replica changes nothing for another, and a resumed run draws the same.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    simulation : ReplicaSimulation
        The replicas.
    settings : RunSettings
        What to do with replicas that broke.
    guard : Guard
        What they must stay within.
    breaks : TrajectoryBreaks
        Where restarts are noted.

    Attributes
    ----------
    good : (ndarray, ndarray), shape (R, N, 3) each, nm and nm/ps
        Last good positions and velocities; those of frozen replicas stay.
    """

    def __init__(
        self,
        folder: Path,
        simulation: ReplicaSimulation,
        settings: RunSettings,
        guard: Guard,
        breaks: TrajectoryBreaks,
    ) -> None:
        self._folder, self._simulation = folder, simulation
        self._settings, self._guard, self._breaks = settings, guard, breaks
        self._masses = simulation.model.masses[:, None]
        self._uncalled: ScoreModelFile | None = None
        self._recent = np.zeros(settings.replicas, dtype=np.int64)
        self._frames_then = np.zeros(settings.replicas, dtype=np.int64)
        shape = (settings.replicas, simulation.model.n_beads, 3)
        self.good = np.zeros(shape), np.zeros(shape)

    def remember(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Keep a state (R, N, 3), nm and nm/ps, as the last good one, but for frozen replicas."""
        frozen = list(self._breaks.frozen)
        for kept, new in zip(self.good, (positions, velocities), strict=True):
            parked = kept[frozen].copy()
            kept[:] = new
            kept[frozen] = parked

    def counts(self) -> dict[str, list[int]]:
        """Return what :meth:`restore` needs, as plain JSON."""
        return {"recent": self._recent.tolist(), "frames_then": self._frames_then.tolist()}

    def restore(
        self, counts: Mapping[str, list[int]], positions: FloatArray, velocities: FloatArray
    ) -> None:
        """Go on from what :meth:`counts` returned and the last good state."""
        self._recent[:] = counts["recent"]
        self._frames_then[:] = counts["frames_then"]
        self.good = positions.copy(), velocities.copy()

    def temperatures(self, velocities: FloatArray) -> FloatArray:
        """Return kinetic temperatures (R,), K, of velocities (R, N, 3), nm/ps; NaN if frozen."""
        kinetic = 0.5 * (self._masses * velocities**2).sum(axis=(1, 2))
        result = 2.0 * kinetic / (MOLAR_GAS_CONSTANT * velocities[0].size)
        result[list(self._breaks.frozen)] = np.nan
        return np.asarray(result)

    def inspect(self, recorder: FrameRecorder) -> tuple[FloatArray, FloatArray]:
        """Replace replicas whose positions or temperatures are broken.

        Parameters
        ----------
        recorder : FrameRecorder
            Trajectories, which end where a replica is frozen.

        Returns
        -------
        positions, velocities : ndarray, shape (R, N, 3), nm and nm/ps
            Of all replicas, afterwards.

        Raises
        ------
        NumericalError
            If a replica broke and that is to stop the run, or if all are frozen.
        """
        positions, velocities = self._simulation.phase_space()
        broken = self._guard.broken_temperatures(self.temperatures(velocities))
        broken |= self._guard.broken(positions)
        return self._replace(broken, positions, velocities, recorder)

    def inspect_energies(self, recorder: FrameRecorder) -> FloatArray:
        """Replace replicas whose positions, temperatures or energies are broken.

        Returns
        -------
        ndarray, shape (R,), kJ/mol
            The model's potential energies, afterwards; NaN of frozen replicas.

        Raises
        ------
        NumericalError
            As :meth:`inspect`.
        """
        positions, _ = self.inspect(recorder)
        energies = self._energies(positions)
        broken = self._guard.broken_energies(energies)
        if not broken:
            return energies
        _, velocities = self._simulation.phase_space()
        positions, _ = self._replace(broken, positions, velocities, recorder)
        return self._energies(positions)

    def finish(self, frames: int) -> None:
        """Check at the end, with so many frames of each replica, that there was a simulation.

        Raises
        ------
        NumericalError
            If replicas broke more often than they were simulated.
        """
        self._require_simulation(frames, forgiven=0)

    def jump(self) -> None:
        """Move every replica to an independent frame; those drawn outside the limits stay."""
        step = self._simulation.current_step
        frames = self._draw(self._settings.replicas, _JUMP, step, 0)
        stay = {*self._guard.broken(frames), *self._breaks.frozen}
        positions, velocities = self._simulation.phase_space()
        for replica in range(self._settings.replicas):
            if replica not in stay:
                positions[replica] = frames[replica]
                velocities[replica] = self._velocities(step, replica)
        self._simulation.set_phase_space(positions, velocities)
        self.remember(positions, velocities)

    def _require_simulation(self, frames: float, *, forgiven: int) -> None:
        settings, restarts = self._settings, self._breaks.restarts
        written = self._breaks.frames_of_all(frames, settings.replicas)
        if len(restarts) <= forgiven + MOST_RESTARTS_PER_FRAME * written:
            return
        raise NumericalError(
            f"{len(restarts)} restarts in {written:.0f} frames: with a time step of "
            f"{settings.timestep:g} ps ({1e3 * settings.timestep:g} fs) replicas of "
            f"{self._simulation.model.path.name} break more often than they simulate, the last: "
            f"{restarts[-1]['reason']}. Use a shorter time step, or a model that was trained "
            f"better; what broke is in {self._folder / 'failures'}"
        )

    def _energies(self, positions: FloatArray) -> FloatArray:
        energies = np.full(len(positions), np.nan)
        running = [r for r in range(len(positions)) if r not in self._breaks.frozen]
        energies[running] = self._simulation.model.potential_energy(positions[running])
        return energies

    def _replace(
        self,
        broken: Mapping[int, str],
        positions: FloatArray,
        velocities: FloatArray,
        recorder: FrameRecorder,
    ) -> tuple[FloatArray, FloatArray]:
        for replica, reason in sorted(broken.items()):
            if replica not in self._breaks.frozen:
                self._replace_one(replica, reason, positions, velocities, recorder)
        if broken:
            simulated = max(self._simulation.current_step, 0) / self._settings.interval
            # Once each, they may all have begun badly.
            self._require_simulation(simulated, forgiven=self._settings.replicas)
        frozen = list(self._breaks.frozen)
        if len(frozen) == self._settings.replicas:
            raise NumericalError(
                f"all {len(frozen)} replicas broke and are frozen; use a shorter timestep, or look "
                f"at {self._folder / 'failures'} whether the model can be simulated"
            )
        # Frozen replicas move on between two looks, and must not come to an end that stops OpenMM.
        positions[frozen], velocities[frozen] = self.good[0][frozen], 0.0
        if broken or frozen:
            self._simulation.set_phase_space(positions, velocities)
        return positions, velocities

    def _replace_one(
        self,
        replica: int,
        reason: str,
        positions: FloatArray,
        velocities: FloatArray,
        recorder: FrameRecorder,
    ) -> None:
        step = self._simulation.current_step
        path = write_failure(
            self._folder,
            replica=replica,
            step=step,
            reason=reason,
            good=(self.good[0][replica], self.good[1][replica]),
            bad=positions[replica],
        )
        if self._settings.on_failure == "stop":
            raise NumericalError(
                f"replica {replica} broke at step {step}: {reason}; its last good state and the "
                f"bad frame are in {path}. Use a shorter timestep, or go on with --resume "
                "--on-failure restart"
            )
        frame = self._fresh_frame(replica, step, recorder.frames)
        if frame is None:
            # What is in memory holds good frames of this replica.
            recorder.flush()
            self._breaks.frozen[replica] = recorder.frames
            logger.warning("replica %d is frozen at step %d: %s", replica, step, reason)
            return
        positions[replica], velocities[replica] = frame, self._velocities(step, replica)
        self.good[0][replica], self.good[1][replica] = positions[replica], velocities[replica]
        if step > 0:
            self._breaks.restarts.append(
                {
                    "replica": replica,
                    "frame": recorder.frames,
                    "step": step,
                    "cause": "restart",
                    "reason": reason,
                }
            )
        logger.warning("replica %d is restarted at step %d: %s", replica, step, reason)

    def _fresh_frame(self, replica: int, step: int, frames: int) -> FloatArray | None:
        """Return an independent frame within the limits, or None where there is none to be had."""
        if self._settings.on_failure == "freeze":
            return None
        if self._frames_then[replica] != frames:
            self._recent[replica] = 0
        self._recent[replica] += 1
        self._frames_then[replica] = frames
        if self._recent[replica] > MOST_RESTARTS_BEFORE_A_FRAME:
            return None
        for draw in range(_DRAWS):
            drawn = self._draw(_DRAWN_TOGETHER, _RESTART, step, replica, draw)
            broken = self._guard.broken(drawn)
            for index, frame in enumerate(drawn):
                if index not in broken:
                    return self._in_its_place(frame, replica)
        return None

    def _in_its_place(self, frame: FloatArray, replica: int) -> FloatArray:
        """Return a frame where the replica was: forces that were added may depend on the place."""
        if not self._simulation.added_forces_sha256:
            return frame
        if not self._simulation.model.metadata.translation_invariant:
            return frame
        return np.asarray(kabsch_align(frame, self.good[0][replica]))

    def _draw(self, n: int, *key: int) -> FloatArray:
        # TorchScript watches its first calls and rounds otherwise from then on. With a model that
        # nobody else calls, as its code stands there, frames depend on the seed alone.
        if self._uncalled is None:
            self._uncalled = self._simulation.model.uncalled()
        with unoptimised():
            return self._uncalled.sample(n, seed=self._seed(*key))

    def _velocities(self, step: int, replica: int) -> FloatArray:
        random: np.random.Generator = np.random.default_rng(self._seed(_VELOCITIES, step, replica))
        shape = self.good[0][replica].shape
        thermal = MOLAR_GAS_CONSTANT * self._simulation.temperature
        return np.asarray(random.normal(size=shape) * np.sqrt(thermal / self._masses))

    def _seed(self, purpose: int, step: int, *key: int) -> int:
        return derived_seed(self._settings.seed, purpose, step + self._settings.equilibration, *key)
