"""Whether a model's sampling and simulation agree with each other and with a reference."""

from __future__ import annotations

import logging
import os

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._io import sha256_of_file, write_run_record
from openmm_scoremd.analysis.comparison import Resampling
from openmm_scoremd.analysis.report import write_report
from openmm_scoremd.analysis.results import Comparison
from openmm_scoremd.data.dataset import CGDataset, load_dataset, split_frames
from openmm_scoremd.errors import DatasetError, InvalidInputError, ModelFileError
from openmm_scoremd.model_file import ScoreModelFile

logger = logging.getLogger(__name__)


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
    ModelFileError
        If the model does not say how its dataset was split.
    """
    return _held_back(model, _load_reference(model, reference), sha256_of_file(reference))


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
        If the model is no molecule, or frames are empty or not finite.
    ModelFileError
        If the model does not say how its dataset was split.
    """
    dataset = _load_reference(model, reference)
    unseen = _held_back(model, dataset, sha256_of_file(reference))
    samples = {"iid": iid} if replicas is None else {"iid": iid, "simulation": replicas}
    comparison = write_report(
        folder,
        unseen,
        samples,
        model.bead_topology,
        floor=dataset.positions,
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


def _load_reference(model: ScoreModelFile, path: str | os.PathLike[str]) -> CGDataset:
    if not model.metadata.is_molecule:
        raise InvalidInputError(
            f"{model.path.name} is a 2-D model, and only molecules have the bonds and dihedrals "
            "that are compared here; use openmm_scoremd.analysis.comparison.compare_coordinates"
        )
    dataset = load_dataset(path)
    name = os.fspath(path)
    if (dataset.n_beads, dataset.n_dims) != (model.n_beads, 3):
        raise DatasetError(
            f"{name} has {dataset.n_beads} beads in {dataset.n_dims} dimensions and "
            f"{model.path.name} has {model.n_beads} in 3; give a dataset of the same molecule"
        )
    if dataset.topology.names != model.bead_topology.names:
        raise DatasetError(
            f"the beads of {name} are {' '.join(dataset.topology.names)}, those of "
            f"{model.path.name} {' '.join(model.bead_topology.names)}; "
            "give a dataset of the same molecule"
        )
    if abs(dataset.temperature - model.temperature) > 0.01:
        logger.warning(
            "%s is of %g K and %s of %g K: their distributions differ even if the model is perfect",
            name, dataset.temperature, model.path.name, model.temperature,
        )  # fmt: skip
    return dataset


def _held_back(model: ScoreModelFile, dataset: CGDataset, sha256: str) -> NDArray[np.float32]:
    if sha256 != model.metadata.dataset_sha256:
        return dataset.positions
    try:
        config = model.metadata.training["config"]
        fraction, seed = float(config["data"]["held_back_fraction"]), int(config["seed"])
    except (LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{model.path.name} was trained on this dataset and does not say which frames were "
            "held back; give a dataset that it was not trained on"
        ) from error
    if fraction == 0.0:
        logger.warning("%s was trained on every frame of the reference", model.path.name)
        return dataset.positions
    _, held_back = split_frames(dataset.n_frames, held_back_fraction=fraction, seed=seed)
    return dataset.positions[held_back]
