"""The frames that a model is held against, and what its training has seen of them."""

from __future__ import annotations

import dataclasses
import logging
import os

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.run_record import sha256_of_file
from openmm_scoremd.data.dataset import CGDataset, load_dataset
from openmm_scoremd.data.split import split_of_training
from openmm_scoremd.errors import DatasetError
from openmm_scoremd.model_file import ScoreModelFile

__all__ = ["Reference", "held_out_frames", "load_reference"]

logger = logging.getLogger(__name__)

_SAME_NM = 1e-6  # coordinates nearer than this are the same, whatever a file has rounded


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Frames of a dataset.

    Attributes
    ----------
    dataset : CGDataset
        All of it.
    positions : (frames, N, D) ndarray, nm
        The frames to compare with, in the order of the dataset: frames of a trajectory may be
        correlated with their neighbours.
    origin : str
        What the training of the model has seen of them, for people.
    sha256 : str
        Hash of the file.
    """

    dataset: CGDataset
    positions: NDArray[np.float32]
    origin: str
    sha256: str

    @property
    def description(self) -> str:
        """Number and origin of the frames."""
        return f"{len(self.positions):,} frames {self.origin}"


def load_reference(model: ScoreModelFile, path: str | os.PathLike[str]) -> Reference:
    """Read the frames that a model is to be held against.

    If the file is the dataset of the training, these are the frames that were held out of it.
    Another file counts as a whole, and nothing says that training has not seen what is in it: if
    it holds one of the frames that travel with the model, training has seen some of it.

    Parameters
    ----------
    model : ScoreModelFile
        The model; it knows its dataset's hash, how the frames were split, and a few of them.
    path : path-like
        CG dataset (``.npz``).

    Raises
    ------
    DatasetError
        If the dataset cannot be read or is of another molecule.
    ModelFileError
        If the model does not say how its dataset was split.
    """
    dataset = load_dataset(path)
    name = os.fspath(path)
    _check_same_molecule(model, dataset, name)
    sha256 = sha256_of_file(path)
    everything = np.arange(dataset.n_frames)
    if sha256 == model.metadata.dataset_sha256:
        _, held_out = split_of_training(model.metadata.training, dataset.n_frames)
        if len(held_out):
            chosen, origin = np.sort(held_out), "that training did not see"
        else:
            chosen, origin = everything, "that training saw, all of them"
    elif _holds_frames_of(model, dataset):
        chosen, origin = (
            everything,
            (
                "of which training saw some or all: the file is not that of the training and holds "
                "frames of it"
            ),
        )
    else:
        chosen, origin = everything, "of another file than that of the training"
    if "saw" in origin:
        logger.warning("%s has %d frames %s", name, len(chosen), origin)
    return Reference(dataset, dataset.positions[chosen], origin, sha256)


def held_out_frames(
    model: ScoreModelFile, reference: str | os.PathLike[str]
) -> NDArray[np.float32]:
    """Return the frames (frames, N, D) in nm of a dataset that a model has not been trained on.

    In the order of the dataset: those held out of the training, or all frames if there are none or
    the file is another. Parameters and errors are those of :func:`load_reference`.
    """
    return load_reference(model, reference).positions


def _holds_frames_of(model: ScoreModelFile, dataset: CGDataset) -> bool:
    """Return whether a dataset holds a frame of the few that travel with the model."""
    known = model.metadata.self_test.positions[..., : dataset.n_dims]
    return any(
        (np.abs(dataset.positions - frame) < _SAME_NM).all(axis=(1, 2)).any() for frame in known
    )


def _check_same_molecule(model: ScoreModelFile, dataset: CGDataset, name: str) -> None:
    difference = model.metadata.difference_from(dataset.topology, dataset.n_dims)
    if difference:
        raise DatasetError(
            f"the molecule of {model.path.name} is not that of {name}: {difference}; "
            "give a dataset of the same molecule"
        )
    if abs(dataset.temperature - model.temperature) > 0.01:
        logger.warning(
            "%s is of %g K and %s of %g K: their distributions differ even if the model is perfect",
            name, dataset.temperature, model.path.name, model.temperature,
        )  # fmt: skip
