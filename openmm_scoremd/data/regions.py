"""Weights that spread frames evenly over the regions they cover."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.geometry import dihedrals

FloatArray = NDArray[np.float64]

N_REGIONS = 200

#: A region counts as at least this part of an average one: single outliers are no state.
_SMALLEST_REGION = 0.1


def spreading_weights(positions: NDArray[np.floating], *, regions: int = N_REGIONS) -> FloatArray:
    """Return weights with which every region of the data is drawn equally often.

    Regions are the Voronoi cells of frames found by farthest-point sampling, so they have about the
    same size whatever their population (the idea of regular-space clustering), in the features of
    :func:`shape_features`.

    Parameters
    ----------
    positions : ndarray, shape (frames, N, D), nm
        Frames.
    regions : int
        Number of regions.

    Returns
    -------
    ndarray, shape (frames,)
        Weights with sum 1.

    Raises
    ------
    InvalidInputError
        If there are no frames or ``regions`` is not positive.
    """
    region = region_of_frames(positions, regions=regions)
    weights: FloatArray = (region_weights(region) / np.bincount(region))[region]
    weights /= weights.sum()
    return weights


def region_of_frames(
    positions: NDArray[np.floating], *, regions: int = N_REGIONS
) -> NDArray[np.int64]:
    """Return the region that each frame lies in, as :func:`spreading_weights` draws them.

    Parameters
    ----------
    positions : ndarray, shape (frames, N, D), nm
        Frames.
    regions : int
        Number of regions.

    Returns
    -------
    ndarray, shape (frames,)
        Numbers from 0, none left out.

    Raises
    ------
    InvalidInputError
        If there are no frames or ``regions`` is not positive.
    """
    if regions < 1 or not len(positions):
        raise InvalidInputError(
            f"{len(positions)} frames and {regions} regions; there must be at least one of each"
        )
    features = shape_features(positions)
    nearest, distance = np.zeros(len(features), dtype=np.int64), np.full(len(features), np.inf)
    centre = int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())
    for region in range(min(regions, len(features))):
        to_centre = ((features - features[centre]) ** 2).sum(axis=1)
        closer = to_centre < distance
        nearest[closer], distance[closer] = region, to_centre[closer]
        centre = int(distance.argmax())
    # Equal frames leave regions empty.
    return np.unique(nearest, return_inverse=True)[1].reshape(-1).astype(np.int64)


def region_of_nearest(
    positions: NDArray[np.floating],
    *,
    reference: NDArray[np.floating],
    region: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the regions of other frames: that of the nearest frame whose region is known.

    Parameters
    ----------
    positions : ndarray, shape (frames, N, D), nm
        Frames.
    reference : ndarray, shape (references, N, D), nm
        Frames whose regions are known.
    region : ndarray, shape (references,)
        Their regions, from :func:`region_of_frames`.

    Returns
    -------
    ndarray, shape (frames,)
        Regions.
    """
    nearest = cKDTree(shape_features(reference)).query(shape_features(positions))[1]
    return np.asarray(region[nearest], dtype=np.int64)


def region_weights(region: NDArray[np.int64]) -> FloatArray:
    """Return how often each region is to be drawn: equally, but for single outliers.

    Parameters
    ----------
    region : ndarray, shape (frames,)
        Of :func:`region_of_frames`.

    Returns
    -------
    ndarray, shape (regions,)
        Relative frequencies.
    """
    counts = np.bincount(region).astype(np.float64)
    smallest = _SMALLEST_REGION * len(region) / len(counts)
    weights: FloatArray = counts / np.maximum(counts, smallest)
    return weights


def shape_features(positions: NDArray[np.floating]) -> FloatArray:
    """Return coordinates that tell shapes apart whatever their orientation.

    Sines and cosines of the dihedrals of consecutive beads, which also tell mirror images apart;
    for fewer than four beads pair distances, and for points in the plane themselves.

    Parameters
    ----------
    positions : ndarray, shape (frames, N, D), nm
        Frames.

    Returns
    -------
    ndarray, shape (frames, features)
        Features.
    """
    frames = np.asarray(positions, dtype=np.float64)
    n_beads, n_dims = frames.shape[1:]
    if n_beads == 1 or n_dims != 3:
        flat: FloatArray = frames.reshape(len(frames), -1)
        return flat
    if n_beads < 4:
        pairs = list(itertools.combinations(range(n_beads), 2))
        return np.stack([np.linalg.norm(frames[:, i] - frames[:, j], axis=1) for i, j in pairs], 1)
    angles = dihedrals(frames, [tuple(range(i, i + 4)) for i in range(n_beads - 3)])
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
