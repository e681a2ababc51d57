"""``scoremd sample``: independent frames, or chains of overdamped dynamics."""

from __future__ import annotations

import dataclasses
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from openmm_scoremd._files.run_record import result_folder, write_run_record
from openmm_scoremd.cli.options import Device, ModelPath, Seed, load_model, refuse_given
from openmm_scoremd.cli.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.sampling.langevin import TrajectorySettings
    from openmm_scoremd.sampling.reverse_diffusion import Solver


def sample(
    model: ModelPath,
    output: Annotated[str, "new folder for DCD files, topology.pdb, topology.psf and run.json"],
    *,
    frames: Annotated[int | None, "number of independent frames; 1000 if not given", 1] = None,
    seed: Seed = 0,
    solver: Annotated[
        Literal["dpm-solver", "euler-maruyama"] | None,
        "how the reverse process is integrated; dpm-solver if not given",
    ] = None,
    steps: Annotated[
        int | None, "score evaluations per frame; if not given 100, or 1000 for euler-maruyama", 1
    ] = None,
    device: Device = "cpu",
    trajectory: Annotated[
        int | None, "frames per chain of overdamped Langevin dynamics, instead of iid frames", 1
    ] = None,
    chains: Annotated[int | None, "number of chains; 10 if not given", 1] = None,
    interval: Annotated[int | None, "steps between frames of a chain; 100 if not given", 1] = None,
    stiffness: Annotated[
        float | None,
        "of springs between steps, standardised; if not given, 2.5 times the largest curvature",
    ] = None,
    time: Annotated[float | None, "diffusion time of a chain; the force's if not given"] = None,
    window: Annotated[int | None, "steps computed together; one if not given", 1] = None,
    temperature: Annotated[float | None, "of the noise in K; the model's if not given"] = None,
    friction: Annotated[
        float | None, "in 1/ps, to express steps of chains in ps; 1 if not given"
    ] = None,
) -> None:
    """Draw independent frames, or chains of overdamped dynamics."""
    options = ChainOptions(
        chains=chains, interval=interval, stiffness=stiffness, time=time, window=window,
        temperature=temperature, friction=friction,
    )  # fmt: skip
    if trajectory is None:
        refuse_given(vars(options), "of trajectories; give --trajectory too")
    else:
        iid = {"frames": frames, "solver": solver, "steps": steps}
        refuse_given(iid, "of independent frames; leave out, or leave out --trajectory")
    with result_folder(output) as folder:
        file = load_model(model, device)
        if trajectory is None:
            kind = solver or "dpm-solver"
            said = _sample_independent(
                file, folder, frames or 1000, seed=seed, solver=kind, steps=steps, device=device
            )
        else:
            said = _sample_chains(file, folder, trajectory, options, seed=seed, device=device)
    print(said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """Options of ``scoremd sample --trajectory``; None where one was not given."""

    chains: int | None
    interval: int | None
    stiffness: float | None
    time: float | None
    window: int | None
    temperature: float | None
    friction: float | None


def draw_independent(
    file: ScoreModelFile,
    n: int,
    *,
    seed: int,
    solver: Solver = "dpm-solver",
    steps: int | None = None,
) -> NDArray[np.float64]:
    """Draw independent frames (n, N, 3) in nm under a progress bar."""
    with progress_bar("drawing frames") as advance:
        return file.sample(n, seed=seed, solver=solver, n_steps=steps, progress=advance)


def _sample_independent(
    file: ScoreModelFile,
    folder: Path,
    frames: int,
    *,
    seed: int,
    solver: Solver,
    steps: int | None,
    device: str,
) -> str:
    """Write independent frames and the record, and return what to say."""
    from openmm_scoremd.sampling.folder import write_independent_frames

    positions = draw_independent(file, frames, seed=seed, solver=solver, steps=steps)
    path = write_independent_frames(folder, positions, file.bead_topology)
    write_run_record(
        folder,
        arguments={"frames": frames, "solver": solver, "steps": steps, "device": device},
        seeds={"sampling": seed},
        inputs={"model": file},
        results={},
    )
    return f"{path}: {frames:,} independent frames"


def _sample_chains(
    file: ScoreModelFile,
    folder: Path,
    frames: int,
    options: ChainOptions,
    *,
    seed: int,
    device: str,
) -> str:
    """Write chains and the record, and return what to say."""
    from openmm_scoremd.sampling.folder import chain_results, write_chains
    from openmm_scoremd.sampling.langevin import trajectory_timestep

    chains = options.chains or 10
    friction = 1.0 if options.friction is None else options.friction
    settings, kelvin = _chain_settings(file, options)
    trajectory_timestep(file.metadata, 1.0, friction=friction)  # an error before all the work
    began = clock.perf_counter()
    with progress_bar("moving chains") as advance:
        found = file.sample_trajectory(
            frames, start=chains, seed=seed, settings=settings, progress=advance
        )
    speed = chains * found.n_steps / (clock.perf_counter() - began)
    write_chains(folder, found, file.bead_topology)
    results = chain_results(found, file.metadata, friction=friction)
    arguments = {"trajectory": frames, **dataclasses.asdict(options), "chains": chains}
    arguments |= {"interval": settings.steps_per_frame, "window": settings.window}
    write_run_record(
        folder,
        arguments={**arguments, "friction": friction, "temperature": kelvin, "device": device},
        seeds={"sampling": seed},
        inputs={"model": file},
        results={**results, "chain_steps_per_second": speed},
    )
    return (
        f"{folder}: {chains:,} chains of {frames:,} frames, "
        f"{results['frame_interval_ps']:.3g} ps apart at friction {friction:g}/ps, "
        f"{found.n_steps / found.score_calls:.3g} steps per score call, "
        f"{speed:,.0f} chain-steps/s"
    )


def _chain_settings(
    file: ScoreModelFile, options: ChainOptions
) -> tuple[TrajectorySettings, float]:
    """Return how the chains move, and the temperature of their noise in K."""
    from openmm_scoremd.diffusion.step_size import step_size_from_stiffness
    from openmm_scoremd.sampling.langevin import TrajectorySettings

    kelvin = file.check_temperature(
        file.temperature if options.temperature is None else options.temperature
    )
    stiffness = options.stiffness
    settings = TrajectorySettings(
        t=options.time,
        step_size=None if stiffness is None else step_size_from_stiffness(stiffness),
        steps_per_frame=options.interval or 100,
        temperature_ratio=kelvin / file.temperature,
        window=options.window or 1,
    )
    return settings, kelvin
