"""What ``scoremd fokker-planck`` leaves in a folder: errors of several networks side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from openmm_scoremd._files.atomic import atomic_path, write_json
from openmm_scoremd._files.run_record import write_run_record
from openmm_scoremd.analysis.report.plots import fokker_planck_error_figure, save
from openmm_scoremd.data.dataset import CGDataset, load_dataset
from openmm_scoremd.errors import DatasetError, InvalidInputError
from openmm_scoremd.evaluation.fokker_planck import (
    FokkerPlanckError,
    error_table,
    fokker_planck_error,
    frame_errors,
)
from openmm_scoremd.models.weights import TrainedModel, load_weights


def write_fokker_planck_errors(
    weights: Sequence[str],
    data: str,
    folder: Path,
    *,
    frames: int,
    times: int,
    t: float,
    seed: int,
    progress: Callable[[int, int], None],
) -> str:
    """Measure errors over diffusion time and of single frames of several networks.

    Writes ``fokker_planck.json`` and ``.png``, ``frame_errors.npz`` and ``run.json``.

    Parameters
    ----------
    weights : sequence of str
        Weights files (``.safetensors``) of one molecule.
    data : str
        CG dataset (``.npz``) of that molecule.
    folder : Path
        Where to write.
    frames : int
        Frames at each diffusion time, and judged one by one.
    times : int
        Number of diffusion times, evenly spaced in the logarithm up to 1.
    t : float
        Diffusion time at which single frames are judged.
    seed : int
        Seed of the choice of frames and of the noise.
    progress : callable
        Called as ``progress(times_done, times_in_all)``.

    Returns
    -------
    str
        The errors as a table of plain text.

    Raises
    ------
    DatasetError
        If the dataset is of other beads than a network.
    InvalidInputError
        If a number is out of range, a network has no energy, or weights are given twice.
    """
    dataset = load_dataset(data)
    paths = dict(zip(_names_of(weights), weights, strict=True))
    models = {name: load_weights(path) for name, path in paths.items()}
    for name, trained in models.items():
        _check_same_beads(name, trained, dataset, data)
    grid = np.geomspace(min(model.description.t_min for model in models.values()), 1.0, times)
    curves: dict[str, FokkerPlanckError] = {}
    # First: a time that a model does not serve is better refused before minutes of work.
    _write_frame_errors(models, dataset, folder, frames=frames, t=t, seed=seed)

    def report(done: int, _total: int) -> None:
        progress(len(curves) * times + done, len(models) * times)

    for name, trained in models.items():
        curves[name] = fokker_planck_error(
            trained, dataset.positions, times=grid, n_frames=frames, seed=seed, progress=report
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
    difference = trained.description.difference_from(dataset.topology, dataset.n_dims)
    if difference:
        raise DatasetError(
            f"{data} is not of the molecule of {name}: {difference}; give a dataset of the same "
            "molecule"
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
    n = min(frames, dataset.n_frames)
    chosen = np.sort(np.random.default_rng(seed).choice(dataset.n_frames, n, replace=False))
    errors = [
        frame_errors(trained, dataset.positions[chosen], t=t, seed=seed)
        for trained in models.values()
    ]
    with atomic_path(folder / "frame_errors.npz") as path:
        np.savez(path, models=list(models), t=t, frames=chosen, errors=errors)
