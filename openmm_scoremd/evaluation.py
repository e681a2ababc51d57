"""Whether a model's sampling and simulation agree with each other and with a reference."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._io import sha256_of_file, write_run_record
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.report import write_report
from openmm_scoremd.analysis.results import Comparison
from openmm_scoremd.data.dataset import load_dataset, split_frames
from openmm_scoremd.errors import DatasetError
from openmm_scoremd.model_file import ScoreModelFile


def held_back_frames(
    model: ScoreModelFile, reference: str | os.PathLike[str]
) -> NDArray[np.float32]:
    """Return the frames of a dataset that a model has not been trained on.

    Parameters
    ----------
    model : ScoreModelFile
        The model; it knows its dataset's hash and how the frames were split.
    reference : path-like
        CG dataset (``.npz``).

    Returns
    -------
    ndarray, shape (frames, N, 3), nm
        The frames held back if it is the dataset of the training, all frames if it is another.

    Raises
    ------
    DatasetError
        If the dataset cannot be read or is of another molecule.
    """
    dataset = load_dataset(reference)
    if dataset.n_beads != model.n_beads:
        raise DatasetError(
            f"{os.fspath(reference)} has {dataset.n_beads} beads and {model.path.name} has "
            f"{model.n_beads}; give a dataset of the same molecule"
        )
    config = model.metadata.training.get("config", {})
    fraction = float(config.get("data", {}).get("held_back_fraction", 0.0))
    if sha256_of_file(reference) != model.metadata.dataset_sha256 or fraction == 0.0:
        return dataset.positions
    _, held_back = split_frames(
        dataset.n_frames, held_back_fraction=fraction, seed=int(config["seed"])
    )
    return dataset.positions[held_back]


def evaluate(
    model: ScoreModelFile,
    reference: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    iid: NDArray[np.floating],
    replicas: NDArray[np.floating] | None,
    seed: int,
    resampling: Resampling,
) -> Comparison:
    """Compare independent frames and a simulation with reference frames.

    Writes pictures, ``metrics.json`` and ``run.json``.

    Parameters
    ----------
    model : ScoreModelFile
        What made the frames.
    reference : path-like
        CG dataset (``.npz``); see :func:`held_back_frames`.
    folder : path-like
        Where to write.
    iid : ndarray, shape (frames, N, 3), nm
        Independent frames.
    replicas : ndarray, shape (replicas, frames, N, 3), nm, or None
        Simulation, if there is one.
    seed : int
        Seed that made the frames, for the record.
    resampling : Resampling
        How errors and noise floors are found.

    Returns
    -------
    Comparison
        The numbers.

    Raises
    ------
    DatasetError
        If the dataset cannot be read or is of another molecule.
    InvalidInputError
        If frames are empty or not finite.
    """
    unseen = held_back_frames(model, reference)
    samples = {"iid": iid} if replicas is None else {"iid": iid, "simulation": replicas}
    comparison = write_report(
        folder,
        unseen,
        samples,
        model.bead_topology,
        floor=load_dataset(reference).positions,
        resampling=resampling,
    )
    write_run_record(
        folder,
        arguments={"reference_frames": len(unseen), "resampling": resampling},
        seeds={"frames": seed, "resampling": resampling.seed},
        inputs={"model": model.path, "reference": reference},
        results=comparison.to_dict(),
    )
    return comparison
