"""What ``scoremd simulate`` does: begin or go on, until the end or a signal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_scoremd._files.run_record import write_run_record
from openmm_scoremd.cli.progress import console, progress_bar, signals_held_back
from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.simulation.run.replica_run import ReplicaRun

#: Options of the command line that are times, and the settings that count them in steps.
_TIMES = {"time": "steps", "equilibration": "equilibration", "jumps": "jump_interval"}


def simulate_replicas(
    file: ScoreModelFile,
    output: str,
    options: Mapping[str, Any],
    *,
    start: str | None,
    resume: bool,
) -> str:
    """Run a simulation in a folder and return what to print.

    Parameters
    ----------
    file : ScoreModelFile
        The model.
    output : str
        Folder.
    options : mapping
        Options of the command line; None where one was not given.
    start : str or None
        File with start frames.
    resume : bool
        Whether to go on with what is in the folder.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, when everything is saved.
    """
    if resume and _is_begun(Path(output)):
        opened = _resumed(file, output, options, start)
    else:
        if resume:
            console.out(f"{output}: nothing to resume; a new run begins", highlight=False)
        opened = _started(file, output, options, start)
    with opened as run, signals_held_back() as stop, progress_bar("simulating") as advance:
        record, began = run.folder / "run.json", run.step
        if run.step < run.settings.steps:
            # Its absence says that the run did not reach its end.
            record.unlink(missing_ok=True)
        frames = run.frames
        if not run.advance(progress=advance, stop=stop):
            raise KeyboardInterrupt
        if not record.exists():
            _write_record(run, file)
        went_on = f"{run.frames - frames:,} frames written now, " if began > 0 else ""
        return (
            f"{output}: {run.settings.replicas:,} replicas of {run.settings.picoseconds:g} ps, "
            f"{run.frames:,} frames each, {went_on}{_breaks(run)}"
            f"{run.replica_steps_per_second:,.0f} replica-steps/s"
        )


def _is_begun(folder: Path) -> bool:
    from openmm_scoremd.simulation.run.folder import LOCK, SETTINGS

    hidden = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if hidden and not (folder / SETTINGS).exists() and hidden != {LOCK}:
        raise InvalidInputError(f"{folder} is not empty and holds no run; give another folder")
    return (folder / SETTINGS).exists()


def _started(
    file: ScoreModelFile, output: str, options: Mapping[str, Any], start: str | None
) -> ReplicaRun:
    from openmm_scoremd.simulation.run.replica_run import ReplicaRun
    from openmm_scoremd.simulation.run.settings import RunSettings

    if options["backend"] == "best":
        options = {**options, **_best(file, options)}
    timestep = options["timestep"] or RunSettings.timestep
    settings = RunSettings(**_settings(options, timestep))
    return ReplicaRun.start(file, output, settings, start=start)


def _resumed(
    file: ScoreModelFile, output: str, options: Mapping[str, Any], start: str | None
) -> ReplicaRun:
    from openmm_scoremd.simulation.run.replica_run import ReplicaRun, stored_settings

    settings = stored_settings(output)
    if options["backend"] == "best":
        # It was found out when the run began; another choice now would change the trajectory.
        options = {**options, "backend": None}
    given = _settings(options, settings.timestep)
    settings.check_given(given)
    return ReplicaRun.resume(
        file,
        output,
        steps=given.get("steps"),
        on_failure=given.get("on_failure"),
        checkpoint_seconds=given.get("checkpoint_seconds"),
        start=start,
    )


def _best(file: ScoreModelFile, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return backend and platform that make the most steps with this number of replicas."""
    from openmm_scoremd.simulation.run.settings import RunSettings
    from openmm_scoremd.simulation.speed import measure_speeds

    given = options["platform"]
    plan = measure_speeds(
        file,
        replicas=[options["replicas"] or RunSettings.replicas],
        platforms=None if given is None else [given],
    )
    (best,) = {plan.best(timing.replicas) for timing in plan.timings}
    console.out(
        f"best: {best.backend} on {best.platform}, "
        f"{best.replica_steps_per_second:,.0f} replica-steps/s",
        highlight=False,
    )
    return {"backend": best.backend, "platform": best.platform}


def _settings(options: Mapping[str, Any], timestep: float) -> dict[str, Any]:
    """Return settings that were given, times counted in steps."""
    from openmm_scoremd.simulation.run.settings import steps_of_time

    given = {name: value for name, value in options.items() if value is not None}
    if "time" in given and "steps" in given:
        raise InvalidInputError("give --time or --steps, not both")
    for option, name in _TIMES.items():
        if option in given:
            given[name] = steps_of_time(given.pop(option), timestep)
    return given


def _breaks(run: ReplicaRun) -> str:
    restarts, frozen = len(run.marks.breaks), len(run.marks.frozen)
    return (f"{restarts} restarts, " if restarts else "") + (f"{frozen} frozen, " if frozen else "")


def _write_record(run: ReplicaRun, file: ScoreModelFile) -> None:
    settings = run.settings
    write_run_record(
        run.folder,
        arguments=settings.to_dict(),
        seeds={"simulation": settings.seed},
        inputs={"model": file.path},
        results={
            "replica_steps": settings.replicas * settings.steps,
            "replica_steps_per_second": run.replica_steps_per_second,
            "restarts": len(run.marks.breaks),
            "frozen": len(run.marks.frozen),
        },
    )
