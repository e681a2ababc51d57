"""Independent frames in nm from the score of a model."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmm_scoremd.artifact.metadata import ModelMetadata
from openmm_scoremd.diffusion.loss import ScoreFunction
from openmm_scoremd.diffusion.sampler import Progress, sample_dpm_solver, sample_reverse_sde
from openmm_scoremd.errors import InvalidInputError, NumericalError

FloatArray: TypeAlias = NDArray[np.float64]

#: Solvers of the reverse process: a second-order one, and Euler-Maruyama as in the paper.
Solver: TypeAlias = Literal["dpm-solver", "euler-maruyama"]

_SOLVERS: Final = {"dpm-solver": sample_dpm_solver, "euler-maruyama": sample_reverse_sde}

#: Score evaluations after which more of them change nothing that 50,000 frames could show.
DEFAULT_STEPS: Final = {"dpm-solver": 100, "euler-maruyama": 1000}


def draw_frames(
    score_fn: ScoreFunction,
    metadata: ModelMetadata,
    n: int,
    *,
    generator: torch.Generator,
    solver: Solver = "dpm-solver",
    n_steps: int | None = None,
    batch_size: int = 1000,
    progress: Progress | None = None,
) -> FloatArray:
    """Draw frames by reverse diffusion. Nothing is filtered: this is the model's distribution.

    Parameters
    ----------
    score_fn : callable
        The model's score in standardised coordinates.
    metadata : ModelMetadata
        Scale, schedule, precision and topology of the model.
    n : int
        Number of frames.
    generator : torch.Generator
        Source of the noise, on the device of the model.
    solver : {"dpm-solver", "euler-maruyama"}
        How the reverse process is integrated.
    n_steps : int, optional
        Score evaluations per frame; 100 for ``dpm-solver`` and 1000 for ``euler-maruyama`` if not
        given.
    batch_size : int
        Frames drawn together.
    progress : callable, optional
        Called as ``progress(frame_steps_done, frame_steps_in_all)``.

    Returns
    -------
    ndarray, shape (n, N, 3), nm
        Frames; centred if the model is translation invariant, 2-D models have z = 0.

    Raises
    ------
    InvalidInputError
        If a number is out of range or the solver unknown.
    NumericalError
        If frames are not finite.
    """
    if n < 1 or batch_size < 1:
        raise InvalidInputError(f"n is {n}, batch_size {batch_size}; both must be positive")
    if solver not in _SOLVERS:
        raise InvalidInputError(f"solver is {solver!r}; choose from {', '.join(_SOLVERS)}")
    steps = DEFAULT_STEPS[solver] if n_steps is None else n_steps
    batches: list[FloatArray] = []
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        x = _SOLVERS[solver](
            score_fn,
            metadata.schedule,
            shape=(count, metadata.n_beads, metadata.n_dims),
            generator=generator,
            n_steps=steps,
            t_min=metadata.t_min,
            dtype=getattr(torch, metadata.dtype),
            project=metadata.centred,
            progress=_overall(progress, first, count, n),
        )
        batches.append(_positions(x, metadata))
    return np.concatenate(batches)


def _overall(progress: Progress | None, first: int, count: int, n: int) -> Progress | None:
    """Turn the progress of one batch into that of all frames."""
    if progress is None:
        return None

    def report(step: int, steps: int) -> None:
        progress(first * steps + count * step, n * steps)

    return report


def _positions(x: Tensor, metadata: ModelMetadata) -> FloatArray:
    positions: FloatArray = metadata.to_nanometers(x).cpu().numpy()
    broken = int((~np.isfinite(positions)).any(axis=(1, 2)).sum())
    if broken:
        raise NumericalError(
            f"{broken} of {len(x)} sampled frames are not finite; use more n_steps, and if that "
            "does not help, the model is not usable"
        )
    return positions
