"""Basins of a two-dimensional density, found from the reference: where frames crowd together."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from openmm_scoremd.analysis.statistics.grids import AxisLimits, FloatArray, checked_array
from openmm_scoremd.errors import InvalidInputError

__all__ = ["Basins", "find_basins"]

_CELLS = 60  # per axis
_SMOOTHING = 1.7  # standard deviation in cells
_BARRIER = 1.0  # kT: lower passes do not separate basins
_SMALLEST = 0.002  # fraction of frames


@dataclasses.dataclass(frozen=True, eq=False)
class Basins:
    """A plane divided into basins.

    Attributes
    ----------
    limits : sequence of (float, float)
        Range of both axes.
    periodic : bool
        Whether both axes wrap around.
    labels : (cells, cells) ndarray of int
        Basin of each cell, 0 the most populated.
    centers : (basins, 2) ndarray
        Density maxima.
    """

    limits: AxisLimits
    periodic: bool
    labels: NDArray[np.int64]
    centers: FloatArray

    @property
    def n_basins(self) -> int:
        """Number of basins."""
        return len(self.centers)

    def assign(self, values: ArrayLike) -> NDArray[np.int64]:
        """Return the basin of every frame.

        Parameters
        ----------
        values : (..., 2) array_like
            Coordinates; outside of the limits, the cell at the edge counts.

        Returns
        -------
        (...) ndarray of int
            Basins.
        """
        points = checked_array(values, "values", trailing=1)
        index = [
            np.floor((points[..., k] - low) / (high - low) * len(self.labels)).astype(np.int64)
            for k, (low, high) in enumerate(self.limits)
        ]
        cells = [i % len(self.labels) if self.periodic else i.clip(0, len(self.labels) - 1)
                 for i in index]  # fmt: skip
        return np.asarray(self.labels[cells[0], cells[1]])


def find_basins(values: ArrayLike, *, limits: AxisLimits | None) -> Basins:
    """Divide a plane into the basins of a density.

    The density is a smoothed histogram. Cells are flooded from the densest one down; where two
    basins meet at a pass lower than 1 kT above the shallower one, they are one basin (this is
    persistence-based clustering). Basins of less than 0.2 % of the frames fall to a neighbour.

    Parameters
    ----------
    values : (frames, 2) array_like
        Reference frames.
    limits : ((float, float), (float, float)) or None
        Ranges of coordinates that wrap around; None for others, whose range is that of the values.

    Returns
    -------
    Basins
        At least one.

    Raises
    ------
    InvalidInputError
        If the values are empty, not finite, not pairs, or all equal.
    """
    points = checked_array(values, "values", trailing=1).reshape(-1, np.shape(values)[-1])
    if points.shape[1] != 2:
        raise InvalidInputError(f"values have {points.shape[1]} columns; basins need two")
    periodic = limits is not None
    ranges = limits if limits is not None else _ranges(points)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=_CELLS, range=list(ranges))
    mode = "wrap" if periodic else "constant"
    density = ndimage.gaussian_filter(counts, _SMOOTHING, mode=mode, truncate=6.0)
    labels = _fill(_flood(density, counts, periodic=periodic), periodic=periodic)
    order = np.argsort(-ndimage.sum_labels(counts, labels, np.unique(labels)), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    labels = rank[np.unique(labels, return_inverse=True)[1].reshape(labels.shape)]
    peaks = ndimage.maximum_position(density, labels, range(len(order)))
    steps = np.array([(high - low) / _CELLS for low, high in ranges])
    centers = np.array([low for low, _ in ranges]) + steps * (np.array(peaks) + 0.5)
    return Basins(ranges, periodic, labels, centers)


def _ranges(points: FloatArray) -> list[tuple[float, float]]:
    # A few strays must not spread the grid so far that everything else is one cell.
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    margin = 0.1 * (high - low)
    if not (margin > 0.0).all():
        raise InvalidInputError("all values are equal; there is no density to divide")
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _flood(density: FloatArray, counts: FloatArray, *, periodic: bool) -> NDArray[np.int64]:
    """Return a basin per cell, -1 where there is no density."""
    # Lists, because single elements of arrays are slow.
    height: list[float] = density.ravel().tolist()
    weight: list[float] = counts.ravel().tolist()
    parent = [-1] * len(height)
    lowest, smallest = 1e-6 * max(height), _SMALLEST * sum(weight)
    neighbours = _neighbours(density.shape, periodic=periodic)

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for cell in np.argsort(-density.ravel(), kind="stable").tolist():
        if height[cell] <= lowest:
            break
        parent[cell] = cell
        roots = {root(n) for n in neighbours[cell] if n >= 0 and parent[n] >= 0} - {cell}
        for other in sorted(roots, key=lambda r: -height[r]):
            mine = root(cell)
            high, low = (mine, other) if height[mine] > height[other] else (other, mine)
            shallow = height[low] <= height[cell] * math.exp(_BARRIER)
            if low == cell or shallow or weight[low] < smallest:
                parent[low] = high
                weight[high] += weight[low]
    # Islands that met nobody, of a few strays, are no basins.
    found = {c for c, p in enumerate(parent) if p == c and weight[c] >= smallest}
    labels = [root(c) if p >= 0 else -1 for c, p in enumerate(parent)]
    return np.array([one if one in found else -1 for one in labels]).reshape(density.shape)


def _neighbours(shape: tuple[int, ...], *, periodic: bool) -> list[list[int]]:
    """Return the cells around each cell, -1 for those beyond the edge."""
    cells = np.arange(np.prod(shape)).reshape(shape)
    padded = np.pad(cells, 1, mode="wrap") if periodic else np.pad(cells, 1, constant_values=-1)
    around = [
        padded[i : i + shape[0], j : j + shape[1]].ravel()
        for i in range(3)
        for j in range(3)
        if (i, j) != (1, 1)
    ]
    found: list[list[int]] = np.stack(around, axis=1).tolist()
    return found


def _fill(labels: NDArray[np.int64], *, periodic: bool) -> NDArray[np.int64]:
    """Give cells without density to the nearest basin."""
    tiled = np.tile(labels, (3, 3)) if periodic else labels
    nearest = ndimage.distance_transform_edt(tiled < 0, return_distances=False, return_indices=True)
    filled = tiled[tuple(nearest)]
    rows, columns = labels.shape
    return np.asarray(filled[rows : 2 * rows, columns : 2 * columns] if periodic else filled)
