"""Steps on the way of ``scoremd`` commands; heavy imports stay inside the functions here, too."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_scoremd._files.atomic import atomic_path, write_json, write_run_record
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.errors import DatasetError, InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openmm_scoremd.cli.progress import Advance
    from openmm_scoremd.data.dataset import CGDataset
    from openmm_scoremd.evaluation.fokker_planck import FokkerPlanckError
    from openmm_scoremd.model_file import ScoreModelFile
    from openmm_scoremd.models.weights import TrainedModel
    from openmm_scoremd.sampling.langevin import Trajectory
    from openmm_scoremd.sampling.reverse_diffusion import Solver
    from openmm_scoremd.training.log import LogRow
    from openmm_scoremd.training.trainer import Progress, Trainer

logger = logging.getLogger(__name__)


def load_model(path: str, device: str = "cpu") -> ScoreModelFile:
    """Load a model file."""
    from openmm_scoremd.model_file import ScoreModelFile

    return ScoreModelFile(path, device=device)


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


def refuse_given(options: Mapping[str, object], reason: str) -> None:
    """Raise ``InvalidInputError`` naming the options that are not None."""
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise InvalidInputError(f"{', '.join(given)}: {reason}")


def write_independent_frames(
    file: ScoreModelFile,
    folder: Path,
    frames: int,
    *,
    seed: int,
    solver: Solver,
    steps: int | None,
    device: str,
) -> str:
    """Draw independent frames, write ``iid.dcd`` and the record, and return what to say."""
    from openmm_scoremd.trajectories.reading import save_frames

    positions = draw_independent(file, frames, seed=seed, solver=solver, steps=steps)
    save_frames(positions, folder / "iid.dcd")
    write_topologies(file, positions[0], folder)
    write_run_record(
        folder,
        arguments={"frames": frames, "solver": solver, "steps": steps, "device": device},
        seeds={"sampling": seed},
        inputs={"model": file.path},
        results={},
    )
    return f"{folder / 'iid.dcd'}: {frames:,} independent frames"


def write_chains(
    file: ScoreModelFile,
    folder: Path,
    frames: int,
    options: ChainOptions,
    *,
    seed: int,
    device: str,
) -> str:
    """Draw trajectories, write a DCD per chain and the record, and return what to say."""
    from openmm_scoremd.diffusion.step_size import step_size_from_stiffness
    from openmm_scoremd.sampling.langevin import TrajectorySettings, trajectory_timestep
    from openmm_scoremd.trajectories.reading import save_frames
    from openmm_scoremd.trajectories.reporters import replica_paths

    chains, interval = options.chains or 10, options.interval or 100
    friction = 1.0 if options.friction is None else options.friction
    kelvin = file.check_temperature(
        file.temperature if options.temperature is None else options.temperature
    )
    trajectory_timestep(file.metadata, 1.0, friction=friction)  # an error before all the work
    stiffness = options.stiffness
    settings = TrajectorySettings(
        t=options.time,
        step_size=None if stiffness is None else step_size_from_stiffness(stiffness),
        steps_per_frame=interval,
        temperature_ratio=kelvin / file.temperature,
        window=options.window or 1,
    )
    began = time.perf_counter()
    with progress_bar("moving chains") as advance:
        found = file.sample_trajectory(
            frames, start=chains, seed=seed, settings=settings, progress=advance
        )
    speed = chains * found.n_steps / (time.perf_counter() - began)
    for path, positions in zip(replica_paths(folder, chains), found.positions, strict=True):
        save_frames(positions, path)
    write_topologies(file, found.positions[0, 0], folder)
    results = _chain_results(file, found, friction) | {"chain_steps_per_second": speed}
    arguments = {"trajectory": frames, **dataclasses.asdict(options)}
    arguments |= {"chains": chains, "interval": interval, "window": settings.window}
    write_run_record(
        folder,
        arguments={**arguments, "friction": friction, "temperature": kelvin, "device": device},
        seeds={"sampling": seed},
        inputs={"model": file.path},
        results=results,
    )
    return (
        f"{folder}: {chains:,} chains of {frames:,} frames, "
        f"{interval * results['timestep_ps']:.3g} ps apart at friction {friction:g}/ps, "
        f"{found.n_steps / found.score_calls:.3g} steps per score call, "
        f"{speed:,.0f} chain-steps/s"
    )


def _chain_results(file: ScoreModelFile, found: Trajectory, friction: float) -> dict[str, Any]:
    """Return the numbers of a trajectory and the time that its steps stand for."""
    from openmm_scoremd.sampling.langevin import mean_mass, trajectory_timestep

    timestep = trajectory_timestep(file.metadata, found.step_size, friction=friction)
    return {
        "diffusion_time": found.t,
        "step_size": found.step_size,
        "stiffness": 1.0 / (4.0 * found.step_size),
        "largest_curvature_at_start": found.curvature,
        "step_size_times_curvature": found.step_size * found.curvature,
        "steps": found.n_steps,
        "score_calls": found.score_calls,
        "mass_dalton": mean_mass(file.metadata),
        "friction_per_ps": friction,
        "timestep_ps": timestep,
        "frame_interval_ps": timestep * found.n_steps / found.positions.shape[1],
        "time_mapping": (
            "overdamped: timestep = mass * friction * step_size * scale**2 / kT; the product of "
            "mass and friction is the same for all beads"
        ),
    }


def write_fokker_planck_errors(
    weights: Sequence[str], data: str, folder: Path, *, frames: int, times: int, t: float, seed: int
) -> str:
    """Write errors over time and of single frames, a picture and the record; return a table."""
    import numpy as np

    from openmm_scoremd.analysis.report.plots import fokker_planck_error_figure, save
    from openmm_scoremd.data.dataset import load_dataset
    from openmm_scoremd.evaluation.fokker_planck import error_table, fokker_planck_error
    from openmm_scoremd.models.weights import load_weights

    dataset = load_dataset(data)
    paths = dict(zip(_names_of(weights), weights, strict=True))
    models = {name: load_weights(path) for name, path in paths.items()}
    for name, trained in models.items():
        _check_same_beads(name, trained, dataset, data)
    grid = np.geomspace(min(model.description.t_min for model in models.values()), 1.0, times)
    curves: dict[str, FokkerPlanckError] = {}
    with progress_bar("measuring") as advance:
        # First: a time that a model does not serve is better refused before minutes of work.
        _write_frame_errors(models, dataset, folder, frames=frames, t=t, seed=seed)

        def report(done: int, _total: int) -> None:
            advance(len(curves) * times + done, len(models) * times)

        for name, trained in models.items():
            curves[name] = fokker_planck_error(
                trained,
                dataset.positions,
                times=grid,
                n_frames=frames,
                seed=seed,
                progress=report,
            )
    save(fokker_planck_error_figure(curves), folder / "fokker_planck.png")
    content = {name: curve.to_dict() for name, curve in curves.items()}
    write_json(folder / "fokker_planck.json", content)
    write_run_record(
        folder,
        arguments={"frames": frames, "times": times, "time": t},
        seeds={"frames": seed},
        inputs={"data": data, **{f"weights of {name}": path for name, path in paths.items()}},
        results={},
    )
    return error_table(curves)


def _names_of(paths: Sequence[str]) -> list[str]:
    """Return short names of files, all different: runs all call theirs the same."""
    for parts in (1, 2):
        names = ["/".join(Path(path).with_suffix("").parts[-parts:]) for path in paths]
        if len({*names}) == len(names):
            return names
    if len({*paths}) < len(paths):
        raise InvalidInputError("the same weights are given twice")
    return list(paths)


def _check_same_beads(name: str, trained: TrainedModel, dataset: CGDataset, data: str) -> None:
    description = trained.description
    found = (dataset.n_dims, dataset.topology.names)
    expected = (description.n_dims, description.topology.names)
    if found != expected:
        raise DatasetError(
            f"{data} has {dataset.n_beads} beads ({' '.join(found[1][:12])}) in {found[0]} "
            f"dimensions and {name} {description.topology.n_beads} ({' '.join(expected[1][:12])}) "
            f"in {expected[0]}; give a dataset of the same molecule"
        )


def _write_frame_errors(
    models: Mapping[str, TrainedModel],
    dataset: CGDataset,
    folder: Path,
    *,
    frames: int,
    t: float,
    seed: int,
) -> None:
    """Write ``frame_errors.npz``: which frames of the dataset, and their errors for each model."""
    import numpy as np

    from openmm_scoremd.evaluation.fokker_planck import frame_errors

    n = min(frames, dataset.n_frames)
    chosen = np.sort(np.random.default_rng(seed).choice(dataset.n_frames, n, replace=False))
    errors = [
        frame_errors(trained, dataset.positions[chosen], t=t, seed=seed)
        for trained in models.values()
    ]
    with atomic_path(folder / "frame_errors.npz") as path:
        np.savez(path, models=list(models), t=t, frames=chosen, errors=errors)


def write_topologies(file: ScoreModelFile, frame: NDArray[np.floating], folder: Path) -> None:
    """Write ``topology.pdb`` and ``topology.psf``, the first with a frame (N, 3) in nm."""
    from openmm_scoremd.topology import write_pdb, write_psf

    write_pdb(file.bead_topology, frame, folder / "topology.pdb")
    write_psf(file.bead_topology, folder / "topology.psf")


def write_bead_topologies(dataset: CGDataset, output: str) -> None:
    """Write the bead topologies of a dataset beside it."""
    from openmm_scoremd.topology import write_pdb, write_psf

    try:
        write_pdb(dataset.topology, dataset.positions[0], Path(output).with_suffix(".pdb"))
        write_psf(dataset.topology, Path(output).with_suffix(".psf"))
    # The dataset is there, and nothing else is needed.
    except InvalidInputError as error:
        logger.warning("no bead topology beside %s: %s", output, error)


def training_progress(advance: Advance) -> Progress:
    """Return a trainer's progress report that moves a progress bar."""

    def report(row: LogRow, total: int) -> None:
        text = f"loss {row.loss:.4f}  {row.samples_per_second:,.0f} samples/s"
        advance(row.step, total, text)

    return report


def plot_training_loss(trainer: Trainer) -> None:
    """Write ``loss.png`` into the folder of a training run."""
    from openmm_scoremd.analysis.report.curves import read_loss_csv
    from openmm_scoremd.analysis.report.plots import loss_figure, save
    from openmm_scoremd.training.trainer import LOG

    try:
        curve = read_loss_csv(trainer.folder / LOG)
    # The weights are there; a log that was lost is no reason to fail.
    except InvalidInputError as error:
        logger.warning("no picture of the loss: %s", error)
        return
    save(loss_figure({"training": curve}), trainer.folder / "loss.png")


def info_rows(file: ScoreModelFile) -> dict[str, str]:
    """Return what ``scoremd info`` says about a model."""
    data = file.metadata
    names = " ".join([*data.topology.names[:12], "..."][: data.n_beads])
    results = data.training.get("results", {})
    training = ", ".join(
        f"{results[name]} {name}" for name in ("steps", "hours") if name in results
    )
    return {
        "title": data.title,
        "beads": f"{data.n_beads} ({names})",
        "temperature": f"{data.temperature:g} K",
        "diffusion time": f"{data.t:g} for the force",
        "precision": data.dtype,
        "training": training or "unknown",
        "created": f"{data.created} with torch {data.versions.get('torch', '?')}",
        "licence": data.licence,
        "citation": data.citation,
        "SHA-256": file.sha256,
        "self-test": f"{len(data.self_test.energies)} frames reproduced",
    }
