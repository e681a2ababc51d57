"""How far a set of samples is from another one: every metric is here, and only here.

Samples are ``(frames, values)`` or ``(replicas, frames, values)``; replicas are pooled. A histogram
metric does not vanish for a perfect model: it falls with the number of frames on either side. So
compare it only at equal sizes, beside
:func:`openmm_scoremd.analysis.statistics.uncertainty.noise_floor`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr, xlogy
from scipy.stats import wasserstein_distance

from openmm_scoremd.analysis.statistics.fractions import population
from openmm_scoremd.analysis.statistics.grids import (
    AxisLimits,
    CombinedRange,
    FloatArray,
    cell_counts,
    checked_array,
    limits_of,
    outlier_edges,
    pooled_pair,
    uniform_edges,
)
from openmm_scoremd.analysis.statistics.uncertainty import Estimate
from openmm_scoremd.errors import InvalidInputError

__all__ = [
    "COMBINED_RANGE",
    "DIHEDRAL_LIMITS",
    "EMPTY_BIN_PROBABILITY",
    "MUELLER_BROWN_LIMITS",
    "POSITIVE_PHI",
    "AxisLimits",
    "BondDistances",
    "CombinedRange",
    "basin_population",
    "bond_length_wasserstein",
    "in_basin",
    "js_divergence",
    "mixture_js_divergence",
    "pmf_error",
    "wasserstein_of_histograms",
]

#: Edges from the smallest to the largest value of both sets, as the public code does.
COMBINED_RANGE = CombinedRange.MIN_MAX
#: Range of phi and psi in radians.
DIHEDRAL_LIMITS: AxisLimits = ((-math.pi, math.pi), (-math.pi, math.pi))
#: Range of x and y of the Müller-Brown potential.
MUELLER_BROWN_LIMITS: AxisLimits = ((-1.8, 1.1), (-0.5, 2.0))
#: The region phi > 0 of a Ramachandran plane.
POSITIVE_PHI: AxisLimits = ((0.0, math.inf), (-math.inf, math.inf))
#: Probability that stands for an empty bin in the PMF error.
EMPTY_BIN_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class BondDistances:
    """Wasserstein-1 distances of bond-length distributions.

    Attributes
    ----------
    mean : float
        Mean over bonds, nm.
    per_bond : (bonds,) ndarray
        Distance of each bond, nm.
    """

    mean: float
    per_bond: FloatArray


def js_divergence(
    reference: ArrayLike, samples: ArrayLike, *, bins: int, limits: AxisLimits | CombinedRange
) -> float:
    """Jensen-Shannon divergence of two histograms.

    The divergence (the square of SciPy's distance) with the natural logarithm, from 0 to ln 2,
    without pseudo-counts: JS = ½ Σ p ln(p/m) + ½ Σ q ln(q/m), m = (p + q)/2.

    Parameters
    ----------
    reference, samples : (..., dimensions) array_like
        Frames of both sets; replicas are pooled.
    bins : int
        Bins per axis; the paper has 64 for phi/psi and 100 for Müller-Brown.
    limits : sequence of (float, float) or CombinedRange
        Range of each axis, in the unit of the samples, or :data:`COMBINED_RANGE`. Samples outside
        fixed ranges count as one more bin, so that leaving the range makes the divergence larger.

    Returns
    -------
    float
        Divergence in nats.

    Raises
    ------
    InvalidInputError
        If a set is empty or not finite, widths differ, or bins or limits are impossible.
    """
    left, right = pooled_pair(reference, samples)
    if isinstance(limits, CombinedRange):
        limits = limits_of(np.concatenate([left, right]), margin=0.0)
    edges = uniform_edges(limits, bins=bins)
    p = cell_counts(left, edges) / len(left)
    q = cell_counts(right, edges) / len(right)
    mixture = (p + q) / 2
    return float(rel_entr(p, mixture).sum() + rel_entr(q, mixture).sum()) / 2


def pmf_error(reference: ArrayLike, samples: ArrayLike, *, bins: int, limits: AxisLimits) -> float:
    """Mean squared difference of the potentials of mean force, as the public code defines it.

    Σ w (ln p − ln q)² / Σ w over the bins that either side occupies, w = (p + q)/2, where the
    probability of an empty side is replaced by 1e-6 everywhere, also in w.

    Parameters
    ----------
    reference, samples : (..., dimensions) array_like
        Frames of both sets; replicas are pooled.
    bins : int
        Bins per axis, of which two are open: one below and one above the limits.
    limits : sequence of (float, float)
        Range of each axis that the other ``bins - 2`` bins divide.

    Returns
    -------
    float
        Error in (kT)².

    Raises
    ------
    InvalidInputError
        If a set is empty or not finite, widths differ, or bins or limits are impossible.
    """
    p, q = _occupied_bins(reference, samples, bins=bins, limits=limits)
    return float(np.average((np.log(p) - np.log(q)) ** 2, weights=(p + q) / 2))


def mixture_js_divergence(
    reference: ArrayLike, samples: ArrayLike, *, bins: int, limits: AxisLimits
) -> float:
    """Jensen-Shannon divergence on the bins of :func:`pmf_error` ("mjs" in the public code).

    Unlike :func:`js_divergence` it has open bins at the ends and 1e-6 for an empty side.
    Parameters, result and errors are those of :func:`pmf_error`; the unit is nats.
    """
    p, q = _occupied_bins(reference, samples, bins=bins, limits=limits)
    mixture = (p + q) / 2
    terms = xlogy(p, p / mixture) + xlogy(q, q / mixture)
    return float(terms.sum() / (2 * mixture.sum()))


def bond_length_wasserstein(reference: ArrayLike, samples: ArrayLike) -> BondDistances:
    """Wasserstein-1 distance between the length distributions of every bond.

    Parameters
    ----------
    reference, samples : (..., bonds) array_like
        Bond lengths in nm; replicas are pooled, numbers of frames may differ.

    Returns
    -------
    BondDistances
        In nm: per bond, and the mean over bonds.

    Raises
    ------
    InvalidInputError
        If a set is empty or not finite, or the numbers of bonds differ.
    """
    left, right = pooled_pair(reference, samples)
    per_bond = np.array([wasserstein_distance(a, b) for a, b in zip(left.T, right.T, strict=True)])
    return BondDistances(mean=float(per_bond.mean()), per_bond=per_bond)


def wasserstein_of_histograms(
    differences: FloatArray, edges: FloatArray, *, periodic: bool
) -> FloatArray:
    """Wasserstein-1 distances of histograms, as quick as resampling needs it.

    Parameters
    ----------
    differences : (n, cells) ndarray
        Fractions of frames per cell in the one set less those in the other.
    edges : (cells + 1,) ndarray
        Of the cells.
    periodic : bool
        Whether the range wraps around: then mass may flow both ways around the circle.

    Returns
    -------
    (n,) ndarray
        In the unit of the edges.
    """
    cumulative = differences.cumsum(axis=1)
    if periodic:
        # The best constant flow around the circle is the median (Rabin et al. 2011).
        cumulative = cumulative - np.median(cumulative, axis=1, keepdims=True)
    return np.asarray(np.abs(cumulative) @ np.diff(edges))


def in_basin(samples: ArrayLike, *, limits: AxisLimits) -> NDArray[np.bool_]:
    """Say which frames lie in a box.

    Parameters
    ----------
    samples : (..., dimensions) array_like
        Values.
    limits : sequence of (float, float)
        Closed range of each axis; ends may be infinite. A lower end above the upper one means a
        range that wraps around, e.g. (2.1, -2.1) for psi around pi.

    Returns
    -------
    (...) ndarray of bool
        One entry per frame.

    Raises
    ------
    InvalidInputError
        If samples are empty or not finite, or the number of limits is not that of the axes.
    """
    values = checked_array(samples, "samples", trailing=1)
    if values.shape[-1] != len(limits):
        raise InvalidInputError(
            f"limits are given for {len(limits)} axes, but the samples have {values.shape[-1]}"
        )
    inside = np.ones(values.shape[:-1], dtype=np.bool_)
    for axis, (lower, upper) in enumerate(limits):
        above, below = values[..., axis] >= lower, values[..., axis] <= upper
        inside &= (above & below) if lower <= upper else (above | below)
    return inside


def basin_population(samples: ArrayLike, *, limits: AxisLimits) -> Estimate:
    """Fraction of frames in a box: :func:`population` of :func:`in_basin`."""
    return population(in_basin(samples, limits=limits))


def _occupied_bins(
    reference: ArrayLike, samples: ArrayLike, *, bins: int, limits: AxisLimits
) -> tuple[FloatArray, FloatArray]:
    """Return the probabilities of all bins that either side occupies, empty ones filled."""
    left, right = pooled_pair(reference, samples)
    edges = outlier_edges(limits, bins=bins)
    p = cell_counts(left, edges) / len(left)
    q = cell_counts(right, edges) / len(right)
    occupied = (p > 0) | (q > 0)
    p, q = p[occupied], q[occupied]
    return np.where(p > 0, p, EMPTY_BIN_PROBABILITY), np.where(q > 0, q, EMPTY_BIN_PROBABILITY)
