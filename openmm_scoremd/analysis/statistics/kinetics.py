"""What takes time: correlation times, implied time scales, slow coordinates.

Nothing here looks across the break between two segments of a trajectory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.uncertainty import Estimate
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError

__all__ = [
    "ImpliedTimescales",
    "SlowCoordinates",
    "implied_timescales",
    "slow_coordinates",
    "statistical_inefficiency",
    "transition_counts",
]

_RESAMPLES = 200
_MIN_PAIRS = 1000  # of frames, to find slow coordinates from


@dataclasses.dataclass(frozen=True)
class ImpliedTimescales:
    """Relaxation times between states, as seen at several lags.

    Attributes
    ----------
    lags : tuple of int
        Frames.
    timescales : tuple of tuple of Estimate
        Per lag, slowest first, in frames; NaN where a time cannot be told (no transition seen, or
        faster than the lag). Errors are standard deviations over resampled units.
    """

    lags: tuple[int, ...]
    timescales: tuple[tuple[Estimate, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SlowCoordinates:
    """Time-lagged independent components (TICA).

    Attributes
    ----------
    lag : int
        Frames.
    mean, vectors : (features,) and (features, 2) ndarray
        Components are ``(features - mean) @ vectors``, of variance one.
    """

    lag: int
    mean: FloatArray
    vectors: FloatArray

    def project(self, features: FloatArray) -> FloatArray:
        """Return the components of ``(..., features)``, as ``(..., 2)``."""
        return np.asarray((features - self.mean) @ self.vectors)


def statistical_inefficiency(pieces: Sequence[ArrayLike]) -> float:
    r"""Frames of a trajectory that count as one independent frame, for the mean of a quantity.

    :math:`g = 1 + 2 \sum_k (1 - k / T)\, C(k)` up to the first :math:`C(k) \le 0`, where
    :math:`C` is the autocorrelation function of all pieces together.

    Parameters
    ----------
    pieces : sequence of (frames,) array_like
        Values in the order of time, one entry per segment; complex ones such as exp(iφ) for angles.

    Returns
    -------
    float
        At least 1, at most the length of the longest piece. Close to that, it is only a lower
        bound. 1 for a constant.

    Raises
    ------
    InvalidInputError
        If there is no piece or one is empty.
    """
    arrays = [np.asarray(piece) for piece in pieces]
    if not arrays or min(map(len, arrays)) == 0:
        raise InvalidInputError("there is a segment without frames, or none at all")
    centre = np.concatenate(arrays).mean()
    longest = max(map(len, arrays))
    products, pairs = np.zeros(longest), np.zeros(longest)
    for array in arrays:
        n = len(array)
        spectrum = np.fft.fft(array - centre, 2 * n)
        products[:n] += np.fft.ifft(np.abs(spectrum) ** 2)[:n].real
        pairs[:n] += np.arange(n, 0, -1)
    correlation = products / pairs
    if correlation[0] <= 1e-14 * max(1.0, abs(centre) ** 2):
        return 1.0
    correlation /= correlation[0]
    below = np.flatnonzero(correlation <= 0.0)
    end = int(below[0]) if len(below) else longest
    lags = np.arange(1, end)
    total = 1.0 + 2.0 * float(((1.0 - lags / longest) * correlation[1:end]).sum())
    return min(max(total, 1.0), float(longest))


def transition_counts(
    pieces: Sequence[NDArray[np.integer]], *, n_states: int, lag: int
) -> NDArray[np.int64]:
    """Count transitions over a lag in every segment.

    Parameters
    ----------
    pieces : sequence of (frames,) ndarray of int
        States, one entry per segment.
    n_states : int
        Number of states.
    lag : int
        Frames between the two ends, at least 1.

    Returns
    -------
    (segments, n_states, n_states) ndarray
        From row to column, by a window that slides frame by frame.
    """
    if lag < 1:
        raise InvalidInputError(f"lag is {lag}; it must be at least 1 frame")
    counts = np.zeros((len(pieces), n_states * n_states), dtype=np.int64)
    for row, piece in zip(counts, pieces, strict=True):
        if len(piece) > lag:
            cells = np.asarray(piece[:-lag]) * n_states + np.asarray(piece[lag:])
            row += np.bincount(cells, minlength=len(row))
    return counts.reshape(-1, n_states, n_states)


def implied_timescales(
    pieces: Sequence[NDArray[np.integer]],
    units: Sequence[int],
    *,
    n_states: int,
    lags: Sequence[int],
    seed: int,
) -> ImpliedTimescales:
    r"""Relaxation times :math:`-\tau / \ln \lambda_k(\tau)` of jumps between states.

    The eigenvalues are those of the row-normalised transition counts, which need no equilibrium at
    the start. States that were never left or entered at a lag take part as they are.

    Parameters
    ----------
    pieces : sequence of (frames,) ndarray of int
        States, one entry per segment.
    units : sequence of int
        For every segment, which independent unit (replica) it belongs to.
    n_states : int
        Number of states, at least 2.
    lags : sequence of int
        Lags in frames.
    seed : int
        Seed of the bootstrap over units.

    Returns
    -------
    ImpliedTimescales
        ``n_states - 1`` times per lag.
    """
    generator = np.random.default_rng(seed)
    member = np.unique(np.asarray(units), return_inverse=True)[1]
    n_units = int(member.max()) + 1
    picks = generator.integers(n_units, size=(_RESAMPLES, n_units))
    # The first row is the set itself.
    weights = np.stack([np.bincount(p, minlength=n_units) for p in (np.arange(n_units), *picks)])
    rows = []
    for lag in lags:
        counts = np.zeros((n_units, n_states, n_states))
        np.add.at(counts, member, transition_counts(pieces, n_states=n_states, lag=lag))
        times = _relaxation(np.tensordot(weights, counts, 1), lag)
        rows.append(tuple(_estimate(column[0], column[1:]) for column in times.T))
    return ImpliedTimescales(tuple(lags), tuple(rows))


def slow_coordinates(pieces: Sequence[FloatArray], *, lag: int) -> SlowCoordinates | None:
    """Find the two slowest linear combinations of features (TICA, by deeptime).

    Parameters
    ----------
    pieces : sequence of (frames, features) ndarray
        Features in the order of time, one entry per segment.
    lag : int
        Frames.

    Returns
    -------
    SlowCoordinates or None
        None where the segments are too short for the lag, or fewer than two components exist.

    Raises
    ------
    MissingDependencyError
        If deeptime is not installed.
    """
    long_enough = [piece for piece in pieces if len(piece) > lag]
    if sum(len(piece) - lag for piece in long_enough) < _MIN_PAIRS:
        return None
    try:
        from deeptime.decomposition import TICA
    except ImportError as error:
        raise MissingDependencyError(
            "slow coordinates need deeptime; install it with pip install 'openmm-scoremd[tica]'"
        ) from error
    now = np.concatenate([piece[:-lag] for piece in long_enough])
    later = np.concatenate([piece[lag:] for piece in long_enough])
    model = TICA(lagtime=lag, epsilon=1e-8).fit_from_timeseries((now, later)).fetch_model()
    mean = np.concatenate([now, later]).mean(axis=0)
    vectors = np.asarray(model.singular_vectors_left)
    if vectors.shape[1] < 2:
        return None
    # deeptime puts a vibration that changes sign over the lag before slower relaxations.
    vectors = vectors[:, np.argsort(model.singular_values)[::-1]]
    projected = (np.concatenate(long_enough) - mean) @ vectors[:, :2]
    return SlowCoordinates(lag, mean, vectors[:, :2] / projected.std(axis=0))


def _relaxation(counts: FloatArray, lag: int) -> FloatArray:
    """Return times in frames, slowest first, NaN where there is none.

    From counts (n, states, states) to times (n, states - 1).
    """
    rows = counts.sum(axis=2, keepdims=True)
    # A state that was never left, because it was never seen, stays where it is.
    matrices = np.where(rows > 0, counts / np.maximum(rows, 1.0), np.eye(counts.shape[1]))
    values = np.sort(np.linalg.eigvals(matrices).real, axis=1)[:, -2::-1]
    times = np.full(values.shape, math.nan)
    inside = (values > 0.0) & (values < 1.0 - 1e-12)
    times[inside] = -lag / np.log(values[inside])
    return times


def _estimate(value: float, resampled: FloatArray) -> Estimate:
    finite = resampled[np.isfinite(resampled)]
    error = float(finite.std(ddof=1)) if len(finite) > _RESAMPLES // 2 else math.nan
    return Estimate(float(value), error)
