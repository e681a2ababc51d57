"""How many independent frames correlated ones are worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.data.regions import shape_features

FloatArray = NDArray[np.float64]

#: Slow motions show in the first principal components; more of them only add noise.
_COMPONENTS = 5
#: Beads, evenly taken, that say well enough how a large molecule moves.
_MOST_BEADS = 100


def effective_frames(positions: NDArray[np.floating]) -> float:
    """Return the number of independent frames that give means as precise as these do.

    That of the slowest of the radius of gyration and the first principal components of
    :func:`~openmm_scoremd.data.regions.shape_features`: frames over the statistical inefficiency
    (Chodera et al., J. Chem. Theory Comput. 3, 26, 2007), whose correlation function is summed up
    to its first zero.

    Parameters
    ----------
    positions : ndarray, shape (frames, N, D), nm
        Frames in order of time.

    Returns
    -------
    float
        At least 1, at most the number of frames.
    """
    n_frames = len(positions)
    if n_frames < 3:
        return float(n_frames)
    spread = (positions - positions.mean(axis=1, keepdims=True)).astype(np.float64)
    gyration = np.sqrt((spread**2).sum(axis=-1).mean(axis=-1))[:, None]
    features = shape_features(positions[:, :: -(-positions.shape[1] // _MOST_BEADS)])
    features = features - features.mean(axis=0)
    axes = np.linalg.svd(features[:: -(-n_frames // 2000)], full_matrices=False)[2][:_COMPONENTS]
    series = np.concatenate([gyration, features @ axes.T], axis=1)
    inefficiencies = [_statistical_inefficiency(values) for values in series.T]
    return float(np.clip(n_frames / max(inefficiencies), 1.0, n_frames))


def _statistical_inefficiency(values: FloatArray) -> float:
    moved = values - values.mean()
    n = len(moved)
    spectrum = np.fft.rfft(moved, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[:n] / np.arange(n, 0, -1)
    if not covariance[0] > 1e-12:
        return 1.0
    correlation = covariance / covariance[0]
    negative = np.flatnonzero(correlation <= 0.0)
    end = int(negative[0]) if negative.size else n
    weights = 1.0 - np.arange(1, end) / n
    return float(1.0 + 2.0 * (weights * correlation[1:end]).sum())
