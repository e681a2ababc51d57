"""Independent frames with the weights that turn them into the equilibrium of the force."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_scoremd._files.atomic import atomic_path
from openmm_scoremd.diffusion.explicit_flow import ExplicitFlow
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.units import thermal_energy

FloatArray: TypeAlias = NDArray[np.float64]

#: Called as ``progress(frames_done, frames_in_all)``.
Progress: TypeAlias = Callable[[int, int], None]

_FRAMES_TOGETHER: Final = 500


@dataclasses.dataclass(frozen=True)
class WeightedFrames:
    """Frames of a model and their importance weights for the equilibrium of its force.

    Averages with these weights are those of an endless simulation, whatever the model's training:
    ``exp(-U / kT) / q`` with the density ``q`` that the frames were drawn with.

    Attributes
    ----------
    frames : ndarray, shape (n, N, 3), nm
        Independent frames.
    log_density : ndarray, shape (n,)
        Logarithm of the density they were drawn with, up to a constant; NaN for frames whose
        density is not known, which have no weight.
    energies : ndarray, shape (n,), kJ/mol
        Potential energies.
    weights : ndarray, shape (n,)
        Weights, which add to 1.
    """

    frames: FloatArray
    log_density: FloatArray
    energies: FloatArray
    weights: FloatArray

    @property
    def effective_size(self) -> float:
        """Number of unweighted frames that would say as much (Kish): 1 / sum of squares."""
        return float(1.0 / np.square(self.weights).sum())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all arrays to one ``.npz`` file, by their names here, whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **dataclasses.asdict(self))

    def average(self, values: FloatArray) -> tuple[float, float]:
        """Return the equilibrium average of a value (n,) per frame, and its standard error.

        Raises
        ------
        InvalidInputError
            If there is not one value for every frame.
        """
        if values.shape != self.weights.shape:
            raise InvalidInputError(
                f"there are {len(self.weights)} frames and values of shape {values.shape}; give "
                "one value for every frame"
            )
        mean = float(self.weights @ values)
        return mean, float(np.sqrt((np.square(self.weights) * np.square(values - mean)).sum()))


def draw_weighted(
    model: ScoreModelFile,
    n: int,
    *,
    seed: int,
    n_steps: int = 60,
    progress: Progress | None = None,
) -> WeightedFrames:
    """Draw independent frames and weight them to the equilibrium of the force.

    Costs about two evaluations of the score for every step and every coordinate of a frame, so it
    is for small molecules and fast networks.

    Parameters
    ----------
    model : ScoreModelFile
        The model.
    n : int
        Number of frames.
    seed : int
        Seed of the noise.
    n_steps : int
        Steps from noise to frames. Weights are right with any number; with few of them, fewer
        frames count.
    progress : callable, optional
        Progress report.

    Returns
    -------
    WeightedFrames
        Frames and weights.

    Raises
    ------
    InvalidInputError
        If ``n`` or ``n_steps`` is not positive, or no frame has a weight.
    """
    if n < 1:
        raise InvalidInputError(f"n is {n}; it must be positive")
    metadata = model.metadata
    centred = metadata.translation_invariant
    flow = ExplicitFlow(
        model.score_fn, metadata.schedule, t_min=metadata.t_min, n_steps=n_steps, centred=centred
    )
    generator = torch.Generator().manual_seed(seed)
    frames, log_density = np.zeros((n, metadata.n_beads, 3)), np.empty(n)
    for first in range(0, n, _FRAMES_TOGETHER):
        part = slice(first, min(first + _FRAMES_TOGETHER, n))
        shape = (part.stop - first, metadata.n_beads, metadata.n_dims)
        drawn = flow.draw(shape, generator)
        frames[part, :, : metadata.n_dims] = metadata.scale * drawn.y.numpy()
        log_density[part] = drawn.log_density.numpy()
        if progress is not None:
            progress(part.stop, n)
    energies = model.potential_energy(np.nan_to_num(frames))
    log_weights = -energies / thermal_energy(model.temperature) - log_density
    return WeightedFrames(frames, log_density, energies, _normalised(log_weights))


def _normalised(log_weights: FloatArray) -> FloatArray:
    known = np.isfinite(log_weights)
    if not known.any():
        raise InvalidInputError(
            "no frame has a known density: the score leaves the numbers; check the model with "
            "`scoremd info`"
        )
    weights = np.where(known, np.exp(log_weights - log_weights[known].max()), 0.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)
