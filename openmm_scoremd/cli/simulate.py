"""``scoremd simulate`` and ``scoremd plan``: replicas in OpenMM, and how fast they are here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from openmm_scoremd._files.run_record import write_run_record
from openmm_scoremd.cli.options import Device, ModelPath, load_model
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.cli.signals import signals_held_back
from openmm_scoremd.cli.terminal import say
from openmm_scoremd.errors import InvalidInputError

if TYPE_CHECKING:
    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.simulation.run.replica_run import ReplicaRun

#: Options of the command line that are times, and the settings that count them in steps.
_TIMES = {"time": "steps", "equilibration": "equilibration", "jumps": "jump_interval"}


def simulate(
    model: ModelPath,
    output: Annotated[str, "folder for trajectories, topologies, state data and run.json"],
    *,
    replicas: Annotated[int | None, "number of replicas; 100 if not given", 1] = None,
    steps: Annotated[int | None, "time steps of each; 10000 if not given", 1] = None,
    time: Annotated[str | None, "or time of each, such as 10ns"] = None,
    interval: Annotated[int | None, "time steps between frames; 100 if not given", 1] = None,
    seed: Annotated[int | None, "seed of all random numbers; 0 if not given", 0, 2**63 - 1] = None,
    timestep: Annotated[float | None, "in ps; 0.002 if not given"] = None,
    friction: Annotated[float | None, "in 1/ps; 1 if not given"] = None,
    temperature: Annotated[float | None, "in K; the model's if not given"] = None,
    potential_factor: Annotated[float | None, "factor of the potential; 1 if not given"] = None,
    equilibration: Annotated[str | None, "time before, not written, such as 10ps"] = None,
    start: Annotated[
        str | None, "frames (.dcd, .xtc, .pdb, .npz) or run to begin from; independent if not given"
    ] = None,
    format: Annotated[  # noqa: A002 the option's name
        Literal["dcd", "xtc"] | None, "of trajectories; dcd if not given"
    ] = None,
    files: Annotated[
        Literal["replica", "combined"] | None, "one per replica (if not given), or one for all"
    ] = None,
    on_failure: Annotated[
        Literal["restart", "freeze", "stop"] | None,
        "what becomes of a replica that broke; restart from a fresh frame if not given",
    ] = None,
    margin: Annotated[
        float | None,
        "how far bonds may leave the range of the training, relative; 0.25 if not given, inf: any",
    ] = None,
    jumps: Annotated[
        str | None, "time between jumps to independent frames, such as 10ps (approximate)"
    ] = None,
    resume: Annotated[bool, "go on after any stop; with a larger --time or --steps beyond"] = False,
    checkpoint_seconds: Annotated[
        float | None, "seconds of work that a crash may cost; 60 if not given"
    ] = None,
    platform: Annotated[str | None, "OpenMM platform; if not given, the one that fits"] = None,
    backend: Annotated[
        Literal["auto", "torchforce", "pythonforce", "kernel", "best"] | None,
        "how OpenMM evaluates the model; auto if not given; best: times them all first",
    ] = None,
    force_device: Annotated[
        Literal["cpu", "cuda"] | None,
        "where a PythonForce runs the model; if not given, on a GPU if there is one",
    ] = None,
    device: Device = "cpu",
) -> None:
    """Run Langevin dynamics of many replicas from independent frames."""
    options = {
        "replicas": replicas, "steps": steps, "time": time, "interval": interval, "seed": seed,
        "timestep": timestep, "friction": friction, "temperature": temperature,
        "equilibration": equilibration, "format": format, "files": files, "margin": margin,
        "on_failure": on_failure, "jumps": jumps, "checkpoint_seconds": checkpoint_seconds,
        "platform": platform, "potential_factor": potential_factor,
        "backend": backend, "device": force_device,
    }  # fmt: skip
    file = load_model(model, device)
    print(_simulate_replicas(file, output, options, start=start, resume=resume))


def plan(
    model: ModelPath,
    *,
    replicas: Annotated[
        list[int] | None, "numbers of replicas; if not given, 1,10,100,1000"
    ] = None,
    platform: Annotated[str | None, "OpenMM platform; if not given, all that work here"] = None,
    output: Annotated[str | None, "also write the numbers there (.json)"] = None,
) -> None:
    """Time a model with every backend and platform that work here."""
    from openmm_scoremd.simulation.speed import write_plan

    print(write_plan(load_model(model, "cpu"), output, replicas=replicas, platform=platform))


def _simulate_replicas(
    file: ScoreModelFile,
    output: str,
    options: Mapping[str, Any],
    *,
    start: str | None,
    resume: bool,
) -> str:
    """Run a simulation in a folder, to its end or to a signal, and return what to print."""
    if resume and _is_begun(Path(output)):
        opened = _resumed(file, output, options, start)
    else:
        if resume:
            say(f"{output}: nothing to resume; a new run begins")
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
        platform=given.get("platform"),
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
    speed = f"{best.replica_steps_per_second:,.0f} replica-steps/s"
    say(f"best: {best.backend} on {best.platform}, {speed}")
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
    restarts, frozen = len(run.breaks.restarts), len(run.breaks.frozen)
    often = f"{restarts} restarts ({run.restarts_per_frame:.2g} per frame), " if restarts else ""
    return often + (f"{frozen} frozen, " if frozen else "")


def _write_record(run: ReplicaRun, file: ScoreModelFile) -> None:
    settings = run.settings
    write_run_record(
        run.folder,
        arguments=settings.to_dict(),
        seeds={"simulation": settings.seed},
        inputs={"model": file},
        results={
            "replica_steps": settings.replicas * settings.steps,
            "replica_steps_per_second": run.replica_steps_per_second,
            "restarts": len(run.breaks.restarts),
            "frozen": len(run.breaks.frozen),
        },
    )
