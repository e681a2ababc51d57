"""Runs of many replicas that can be stopped at any moment and go on as if nothing had been."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Protocol

from numpy.typing import ArrayLike

from openmm_scoremd._files.run_record import result_folder
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.simulation.platforms import available_platform
from openmm_scoremd.simulation.replicas import PrepareSystem, ReplicaSimulation
from openmm_scoremd.simulation.run import start as beginning
from openmm_scoremd.simulation.run.folder import (
    CHECKPOINT,
    LOCK,
    Checkpoint,
    locked,
    read_settings,
    remove_files,
    remove_temporary_files,
    removed_on_failure,
    write_settings,
)
from openmm_scoremd.simulation.run.guards import Guard
from openmm_scoremd.simulation.run.recording import Recorder
from openmm_scoremd.simulation.run.restarts import Restarts
from openmm_scoremd.simulation.run.settings import OnFailure, RunSettings, derived_seed
from openmm_scoremd.simulation.run.stepping import Stepper
from openmm_scoremd.trajectories.segments import TrajectoryBreaks


class Progress(Protocol):
    """What a run calls while it goes on."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """Tell how many steps are done, of how many, with speed and temperature."""


def ignore(done: int, total: int, text: str) -> None:
    """Take no notice of progress."""


def stored_settings(folder: str | os.PathLike[str]) -> RunSettings:
    """Return the settings of a run that began in a folder.

    Raises
    ------
    CheckpointError
        If there are none, or they are damaged.
    """
    return RunSettings.from_dict(read_settings(Path(folder))["settings"])


class ReplicaRun:
    """Langevin dynamics of many replicas in a folder; made by :meth:`start` or :meth:`resume`.

    Use it in a ``with`` block: the folder stays locked until it ends. The state of a run is saved
    every ``checkpoint_seconds`` and whenever :meth:`advance` returns. Memory does not grow.

    Attributes
    ----------
    simulation : ReplicaSimulation
        Everything of OpenMM is at hand in it.
    settings : RunSettings
        What was asked for.
    guard : Guard
        Limits that replicas are watched for.
    breaks : TrajectoryBreaks
        Where trajectories break off, and which replicas are frozen.

    Examples
    --------
    >>> settings = RunSettings(replicas=10, steps=100_000)
    >>> with ReplicaRun.start(model, "md", settings) as run:  # doctest: +SKIP
    ...     run.advance()
    """

    def __init__(
        self,
        folder: Path,
        simulation: ReplicaSimulation,
        settings: RunSettings,
        guard: Guard,
        breaks: TrajectoryBreaks,
    ) -> None:
        self.folder, self.simulation, self.settings = folder, simulation, settings
        self.guard, self.breaks = guard, breaks
        metadata = simulation.model.metadata
        self._recorder = Recorder(
            folder,
            settings,
            metadata.topology,
            centred=metadata.translation_invariant,
            breaks=breaks,
        )
        self._restarts = Restarts(folder, simulation, settings, guard, breaks)
        self._stepper = Stepper(simulation, settings, self._recorder, self._restarts)
        self._lock = contextlib.ExitStack()

    # --- Beginning ---------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        model: ScoreModelFile,
        folder: str | os.PathLike[str],
        settings: RunSettings,
        *,
        start: ArrayLike | str | os.PathLike[str] | None = None,
        prepare_system: PrepareSystem | None = None,
    ) -> ReplicaRun:
        """Begin a run in a new or empty folder.

        Parameters
        ----------
        model : ScoreModelFile
            What to simulate.
        folder : path-like
            Where to write.
        settings : RunSettings
            What to do.
        start : array of shape (R, N, 3), nm, or path-like, optional
            One frame per replica, or a trajectory file from which they are taken evenly;
            independent frames of the model if not given.
        prepare_system : callable, optional
            Adds forces; see :class:`ReplicaSimulation`.

        Raises
        ------
        InvalidInputError
            If the folder is not empty, or a setting or the frames do not fit.
        CheckpointError
            If another process works in the folder.
        """
        begun = beginning.StartFrames.of(start)
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(result_folder(folder, besides=frozenset({LOCK})))
            stack.enter_context(locked(path))
            stack.enter_context(removed_on_failure(path))
            run = cls._begin(model, path, settings, begun, prepare_system)
            run._lock = stack.pop_all()
        return run

    @classmethod
    def resume(
        cls,
        model: ScoreModelFile,
        folder: str | os.PathLike[str],
        *,
        steps: int | None = None,
        on_failure: OnFailure | None = None,
        checkpoint_seconds: float | None = None,
        platform: str | None = None,
        start: ArrayLike | str | os.PathLike[str] | None = None,
        prepare_system: PrepareSystem | None = None,
    ) -> ReplicaRun:
        """Go on with a run that was stopped in any way, or make a finished one longer.

        On the same platform and machine it is the uninterrupted run, on Reference and CPU bit by
        bit. On another one it goes on from the same positions, velocities and parameters with other
        random numbers, and a warning in the log says so.

        Parameters
        ----------
        model : ScoreModelFile
            The same model.
        folder : path-like
            Folder of the run.
        steps : int, optional
            Another number of steps in all, not below what is done.
        on_failure, checkpoint_seconds, platform : optional
            Other values from now on. A platform that this OpenMM has not is replaced by the one
            that fits.
        start : array or path-like, optional
            Only needed where a run that began from an array was stopped before its first
            checkpoint.
        prepare_system : callable, optional
            The same as when the run began.

        Raises
        ------
        CheckpointError
            If there is nothing to resume, another process works there, files are damaged, or the
            model or the added forces are others.
        InvalidInputError
            If ``steps`` is below what is done.
        """
        path = Path(folder)
        content = read_settings(path)
        before = RunSettings.from_dict(content["settings"])
        settings = dataclasses.replace(
            before.changed(
                steps=steps, on_failure=on_failure, checkpoint_seconds=checkpoint_seconds
            ),
            platform=platform or available_platform(before.platform),
        )
        beginning.check_model(model, content)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(path))
            remove_temporary_files(path)
            if (path / CHECKPOINT).exists():
                run = cls._continue(model, path, settings, content, prepare_system)
            else:
                remove_files(path)
                begun = beginning.StartFrames.again(content, start)
                run = cls._begin(model, path, settings, begun, prepare_system)
            run._lock = stack.pop_all()
        return run

    @classmethod
    def _begin(
        cls,
        model: ScoreModelFile,
        folder: Path,
        settings: RunSettings,
        begun: beginning.StartFrames,
        prepare_system: PrepareSystem | None,
    ) -> ReplicaRun:
        simulation = beginning.make_simulation(model, settings, prepare_system, settings.seed)
        settings = beginning.resolved(settings, simulation)
        write_settings(folder, beginning.identity(simulation, settings, begun))
        frames, guard = begun.frames_and_guard(model, settings)
        beginning.warn_of_timestep(model, settings)
        simulation.set_positions(frames)
        simulation.simulation.context.setStepCount(-settings.equilibration)
        simulation.simulation.context.setTime(-settings.equilibration * settings.timestep)
        simulation.warm_up()
        beginning.write_topologies(model, frames, folder, settings)
        run = cls(folder, simulation, settings, guard, TrajectoryBreaks())
        run._recorder.create()
        run._restarts.remember(*simulation.phase_space())
        run.commit()
        return run

    @classmethod
    def _continue(
        cls,
        model: ScoreModelFile,
        folder: Path,
        settings: RunSettings,
        content: dict[str, Any],
        prepare_system: PrepareSystem | None,
    ) -> ReplicaRun:
        state = Checkpoint.load(folder / CHECKPOINT)
        header, arrays = state.header, state.arrays
        seed = derived_seed(settings.seed, 0, header["step"] + settings.equilibration)
        simulation = beginning.make_simulation(model, settings, prepare_system, seed)
        settings = beginning.resolved(settings, simulation)
        beginning.check_forces(simulation, content)
        simulation.set_phase_space(arrays["positions"], arrays["velocities"])
        simulation.warm_up()
        beginning.restore_context(simulation, state, settings)
        beginning.check_length(settings, header["step"], folder)
        frozen = {int(k): v for k, v in header["frozen"].items()}
        breaks = TrajectoryBreaks(header["breaks"], frozen)
        run = cls(folder, simulation, settings, Guard.from_dict(header["guard"]), breaks)
        run._recorder.restore(header["files"])
        run._restarts.restore(
            header["failures"], arrays["good_positions"], arrays["good_velocities"]
        )
        run._stepper.restore(arrays["temperatures"], header["samples"])
        write_settings(folder, {**content, "settings": settings.to_dict()})
        return run

    def __enter__(self) -> ReplicaRun:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.close()

    # --- Going on ----------------------------------------------------------------------------

    @property
    def marks(self) -> SimpleNamespace:
        """Former name of :attr:`breaks`, with former names inside."""
        warnings.warn("ReplicaRun.marks is called breaks now", FutureWarning, stacklevel=2)
        return SimpleNamespace(breaks=self.breaks.restarts, frozen=self.breaks.frozen)

    @property
    def step(self) -> int:
        """Time steps done; negative during equilibration."""
        return self.simulation.current_step

    @property
    def frames(self) -> int:
        """Frames recorded so far."""
        return self._recorder.frames

    @property
    def restarts_per_frame(self) -> float:
        """Restarts per frame recorded, all replicas together."""
        return self._recorder.restarts_per_frame

    @property
    def replica_steps_per_second(self) -> float:
        """Latest speed; 0 before anything was timed."""
        return self._stepper.speed * self.settings.replicas

    # Called without arguments, bool is False: to the end.
    def advance(self, *, progress: Progress = ignore, stop: Callable[[], bool] = bool) -> bool:
        """Simulate to the end, or until asked to stop; the state is saved in both cases.

        Parameters
        ----------
        progress : callable
            Called about three times a second.
        stop : callable
            Asked as often whether to stop.

        Returns
        -------
        bool
            Whether the end was reached.

        Raises
        ------
        NumericalError
            If OpenMM fails, if a replica broke and ``on_failure`` is "stop", if replicas break more
            often than they simulate, or if all are frozen. The run can be resumed from its last
            checkpoint.
        KeyboardInterrupt
            After Ctrl-C. The run can be resumed likewise.
        """
        self._stepper.start_clock()
        saved, cost = time.perf_counter(), 0.0
        try:
            while self.step < self.settings.steps and not stop():
                self._stepper.advance()
                before = self.settings.equilibration
                progress(self.step + before, self.settings.steps + before, self._text())
                # A disk that is slow to sync must not eat more than a twentieth of the time.
                if time.perf_counter() - saved >= max(self.settings.checkpoint_seconds, 20 * cost):
                    began = time.perf_counter()
                    self.commit()
                    saved = time.perf_counter()
                    cost = saved - began
        except BaseException:
            # No checkpoint: what OpenMM holds now may be broken. Frames until now are good.
            self._recorder.flush()
            raise
        self.commit()
        if self.step < self.settings.steps:
            return False
        self._restarts.finish(self.frames)
        return True

    def commit(self) -> None:
        """Save the state: after this the run goes on from here, whatever happens."""
        self._recorder.sync()
        positions, velocities = self.simulation.phase_space()
        good_positions, good_velocities = self._restarts.good
        temperatures, samples = self._stepper.sums()
        header = {
            "step": self.step,
            "files": self._recorder.sizes(),
            "breaks": self.breaks.restarts,
            "frozen": self.breaks.frozen,
            "failures": self._restarts.counts(),
            "guard": self.guard.to_dict(),
            "samples": samples,
            "machine": beginning.machine(self.simulation),
            "parameters": dict(self.simulation.simulation.context.getParameters()),
        }
        arrays = {
            "positions": positions,
            "velocities": velocities,
            "good_positions": good_positions,
            "good_velocities": good_velocities,
            "temperatures": temperatures,
        }
        context = self.simulation.create_checkpoint()
        Checkpoint(header, arrays, context).save(self.folder / CHECKPOINT)

    def _text(self) -> str:
        replica_steps, per_step = self.replica_steps_per_second, self.settings.timestep * 1e-3
        per_day = self._stepper.speed * per_step * 86400.0
        parts = [f"{replica_steps:,.0f} replica-steps/s", f"{per_day:,.0f} ns/day"]
        if self.breaks.restarts:
            restarts = f"{len(self.breaks.restarts):,} restarts"
            parts.append(f"{restarts} ({self.restarts_per_frame:.2g} per frame)")
        parts += [f"{len(self.breaks.frozen)} frozen"] if self.breaks.frozen else []
        return ", ".join(parts)
