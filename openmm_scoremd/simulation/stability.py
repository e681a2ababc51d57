"""The longest time step at which a model can be simulated."""

from __future__ import annotations

import math

import numpy as np

from openmm_scoremd.artifact.torchscript import unoptimised
from openmm_scoremd.model_file import ScoreModelFile

_ITERATIONS = 6
_DISPLACEMENT = 1e-4  # nm, of the bead that moves most


def stable_timestep(model: ScoreModelFile) -> float:
    """Return the time step, ps, at which the fastest motion of a model becomes unstable.

    Integrators of the leapfrog family keep an oscillation of frequency w in bounds below 2 / w
    (Leimkuhler and Matthews, Molecular Dynamics, Springer 2015). The highest frequency is that of
    the mass-weighted Hessian at the frames stored in the model file, by power iteration with
    differences of forces; six iterations come within some percent.

    Parameters
    ----------
    model : ScoreModelFile
        The model.

    Returns
    -------
    float
        Infinity where nothing holds the beads.
    """
    frames = np.asarray(model.metadata.self_test.positions, dtype=np.float64)
    root = np.sqrt(model.masses)[:, None]
    vectors = np.random.default_rng(0).normal(size=frames.shape)
    with unoptimised():
        forces = model.forces(frames)
        for _ in range(_ITERATIONS):
            vectors /= np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
            moves = vectors / root
            lengths = _DISPLACEMENT / np.abs(moves).max(axis=(1, 2), keepdims=True)
            images = (forces - model.forces(frames + lengths * moves)) / lengths / root
            squares = (vectors * images).sum(axis=(1, 2))
            if not images.any(axis=(1, 2)).all():
                break
            vectors = images
    highest = float(squares.max())
    return 2.0 / math.sqrt(highest) if highest > 0.0 else math.inf
