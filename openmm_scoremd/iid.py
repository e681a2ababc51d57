"""Independent frames in nm from the score of a model."""

from __future__ import annotations

import dataclasses
import logging
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.artifact import ModelMetadata
from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.sampler import Progress, sample_reverse_sde
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.errors import InvalidInputError, NumericalError

logger = logging.getLogger(__name__)

FloatArray: TypeAlias = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class SampledFrames:
    """Independent frames from the diffusion model.

    Attributes
    ----------
    positions : ndarray, shape (n, N, 3), nm
        Frames; molecules are centred, 2-D models have z = 0.
    redrawn : int
        Frames that were thrown away and drawn again because a bond was outside the range seen in
        training.
    """

    positions: FloatArray
    redrawn: int


def draw_frames(
    score_fn: ScoreFunction,
    metadata: ModelMetadata,
    n: int,
    *,
    generator: torch.Generator,
    n_steps: int = 1000,
    batch_size: int = 1000,
    progress: Progress | None = None,
) -> SampledFrames:
    """Draw frames by reverse diffusion until ``n`` have every bond within the training range.

    Parameters
    ----------
    score_fn : callable
        The model's score in standardised coordinates.
    metadata : ModelMetadata
        Scale, schedule, precision, topology and bond ranges of the model.
    n : int
        Number of frames.
    generator : torch.Generator
        Source of the noise, on the device of the model.
    n_steps : int
        Steps of the reverse diffusion.
    batch_size : int
        Frames drawn together.
    progress : callable, optional
        Called as ``progress(steps_done, steps_in_all)`` within every batch.

    Returns
    -------
    SampledFrames
        Exactly ``n`` frames and how many were redrawn.

    Raises
    ------
    InvalidInputError
        If a number is out of range.
    NumericalError
        If frames are not finite, or if too many have bonds never seen in training.
    """
    if n < 1 or batch_size < 1:
        raise InvalidInputError(f"n is {n}, batch_size {batch_size}; both must be positive")
    kept: list[FloatArray] = []
    missing, redrawn = n, 0
    while missing:
        count = min(missing, batch_size)
        x = sample_reverse_sde(
            score_fn,
            VPSchedule(*metadata.schedule),
            shape=(count, metadata.n_beads, metadata.n_dims),
            generator=generator,
            n_steps=n_steps,
            t_min=metadata.t_min,
            dtype=getattr(torch, metadata.dtype),
            project=_centred if metadata.is_molecule else None,
            progress=progress,
        )
        frames = _positions(x, metadata)
        good = frames[_bonds_in_range(frames, metadata)]
        kept.append(good)
        missing -= len(good)
        redrawn += count - len(good)
        _check_redrawn(redrawn, n - missing)
    if redrawn:
        logger.info("%d frames had bonds outside the training range and were redrawn", redrawn)
    return SampledFrames(np.concatenate(kept), redrawn)


def _positions(x: Tensor, metadata: ModelMetadata) -> FloatArray:
    positions = np.zeros((len(x), metadata.n_beads, 3))
    positions[..., : metadata.n_dims] = metadata.scale * x.double().cpu().numpy()
    broken = int((~np.isfinite(positions)).any(axis=(1, 2)).sum())
    if broken:
        raise NumericalError(
            f"{broken} of {len(x)} sampled frames are not finite; use more n_steps, and if that "
            "does not help, the model is not usable"
        )
    return positions


def _bonds_in_range(frames: FloatArray, metadata: ModelMetadata) -> NDArray[np.bool_]:
    if not metadata.bond_ranges:
        return np.ones(len(frames), dtype=bool)
    first, second = np.array(metadata.topology.bonds).T
    low, high = np.array(metadata.bond_ranges).T
    lengths = np.linalg.norm(frames[:, first] - frames[:, second], axis=-1)
    inside = (lengths >= low) & (lengths <= high)
    return np.asarray(inside.all(axis=1))


def _check_redrawn(redrawn: int, good: int) -> None:
    # A useful model needs few; a useless one would keep the loop running for ever.
    if redrawn > 10 * good + 100:
        raise NumericalError(
            f"{redrawn} frames had bond lengths never seen in training, {good} were good; "
            "train the model longer or use more n_steps"
        )


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=1, keepdim=True)
