"""Sample arrays checked and counted on grids: what metrics and free energies have in common."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openmm_scoremd.errors import InvalidInputError

FloatArray: TypeAlias = NDArray[np.float64]
#: Lower and upper end of the range of each axis.
AxisLimits: TypeAlias = Sequence[tuple[float, float]]

# Widens the outermost edges by this fraction of the range, so that the float32 value of pi, which
# lies above the float64 one, still counts as an angle.
_EDGE_SLACK = 1e-6


class CombinedRange(enum.Enum):
    """Edges that follow the data instead of fixed limits."""

    #: From the smallest to the largest value of both sets, per axis, as the public code does.
    MIN_MAX = "combined min-max"


def checked_array(values: ArrayLike, name: str, *, trailing: int) -> FloatArray:
    """Return values as float64 after checking that they are finite numbers.

    Parameters
    ----------
    values : array_like
        ``(frames, ...)`` or ``(replicas, frames, ...)``.
    name : str
        What to call them in messages.
    trailing : int
        Number of axes that belong to one frame.

    Raises
    ------
    InvalidInputError
        If they are empty, have too few axes, or hold NaN or infinity (the message names the frame).
    """
    array = np.asarray(values, dtype=np.float64)
    leading = array.ndim - trailing
    if leading not in (1, 2):
        raise InvalidInputError(
            f"{name} has shape {array.shape}; it must be (frames, ...) or (replicas, frames, ...) "
            f"with {trailing} axes for each frame"
        )
    if array.size == 0:
        raise InvalidInputError(f"{name} is empty (shape {array.shape}); give at least one frame")
    bad = np.argwhere(~np.isfinite(array).all(axis=tuple(range(leading, array.ndim))))
    if len(bad):
        axes = ("replica", "frame")[-leading:]
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, bad[0], strict=True))
        raise InvalidInputError(
            f"{name} holds NaN or infinity in {where} ({len(bad)} frames in all); "
            "remove these frames or find out why they broke"
        )
    return array


def pooled(values: ArrayLike, name: str) -> FloatArray:
    """Return checked samples as ``(n, dimensions)``, replicas one after another."""
    array = checked_array(values, name, trailing=1)
    return array.reshape(-1, array.shape[-1])


def pooled_pair(reference: ArrayLike, samples: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both sets as checked by :func:`pooled`, with the same number of values per frame."""
    left, right = pooled(reference, "reference"), pooled(samples, "samples")
    if left.shape[1] != right.shape[1]:
        raise InvalidInputError(
            f"the reference has {left.shape[1]} values per frame and the samples have "
            f"{right.shape[1]}; both must describe the same observable"
        )
    return left, right


def uniform_edges(limits: AxisLimits, *, bins: int) -> list[FloatArray]:
    """Return ``bins + 1`` equally spaced edges per axis, the outermost very slightly widened."""
    check_grid(limits, bins=bins, minimum=1)
    edges = []
    for lower, upper in limits:
        axis = np.linspace(lower, upper, bins + 1)
        axis[[0, -1]] += np.array([-1.0, 1.0]) * _EDGE_SLACK * (upper - lower)
        edges.append(axis)
    return edges


def outlier_edges(limits: AxisLimits, *, bins: int) -> list[FloatArray]:
    """Return edges of ``bins - 2`` equal bins inside the limits and one open bin at either end."""
    check_grid(limits, bins=bins, minimum=3)
    return [
        np.concatenate([[-math.inf], np.linspace(lower, upper, bins - 1), [math.inf]])
        for lower, upper in limits
    ]


def limits_of(points: FloatArray, *, margin: float) -> list[tuple[float, float]]:
    """Return the range of the columns of ``(n, dimensions)``, widened by a part of itself."""
    low, high = points.min(axis=0), points.max(axis=0)
    extra = margin * (high - low)
    return list(zip((low - extra).tolist(), (high + extra).tolist(), strict=True))


def cell_counts(samples: FloatArray, edges: Sequence[FloatArray]) -> FloatArray:
    """Count samples per grid cell.

    Parameters
    ----------
    samples : (n, dimensions) ndarray
        Finite values.
    edges : sequence of ndarray
        Increasing edges of each axis.

    Returns
    -------
    (cells + 1,) ndarray
        Counts in row-major order; the last entry counts samples outside the grid.
    """
    shape = tuple(len(axis) - 1 for axis in edges)
    if samples.shape[1] != len(shape):
        raise InvalidInputError(
            f"limits are given for {len(shape)} axes, but the samples have {samples.shape[1]}"
        )
    index = np.stack(
        [np.searchsorted(axis, samples[:, i], side="right") - 1 for i, axis in enumerate(edges)]
    )  # (dimensions, n)
    inside = np.all((index >= 0) & (index < np.array(shape)[:, None]), axis=0)
    cells = np.ravel_multi_index(tuple(index[:, inside]), shape)
    counts = np.bincount(cells, minlength=math.prod(shape))
    return np.append(counts, len(samples) - len(cells)).astype(np.float64)


def check_grid(limits: AxisLimits, *, bins: int, minimum: int) -> None:
    """Raise unless there are enough bins and every range is finite and increasing."""
    if bins < minimum:
        raise InvalidInputError(f"bins is {bins}; it must be at least {minimum}")
    if len(limits) == 0:
        raise InvalidInputError("limits is empty; give (lower, upper) for each axis")
    for axis, (lower, upper) in enumerate(limits):
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise InvalidInputError(
                f"the range of axis {axis} is ({lower}, {upper}); "
                "the lower end must be below the upper one and both finite"
            )
