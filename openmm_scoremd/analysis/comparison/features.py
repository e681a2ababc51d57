"""Observables counted by unit and cell, and cut into the regions whose populations are compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.two_sample import UnitFractions

__all__ = ["BasinFrames", "UnitHistograms", "features_of", "unit_histograms"]

_CELLS = 400
_MAX_REGIONS, _MIN_UNITS_PER_REGION = 10, 5


@dataclasses.dataclass(frozen=True, eq=False)
class UnitHistograms:
    """Histograms of one observable for every unit of a set.

    Attributes
    ----------
    group, label, unit : str
        Which observable; ``group`` is the key of its group.
    edges : (cells + 1,) ndarray
        The same for all sets.
    periodic : bool
        Whether the range wraps around.
    fractions : (units, cells) ndarray
        Fractions of the frames of each unit; values beyond the edges count in the last cells.
    frames_per_unit : int
        Frames of one unit.
    by_basin : tuple of (basins, cells) ndarray
        Per plane that has basins, numbers of frames in each basin and cell.
    """

    group: str
    label: str
    unit: str
    edges: FloatArray
    periodic: bool
    fractions: FloatArray
    frames_per_unit: int
    by_basin: tuple[FloatArray, ...] = ()

    @property
    def density(self) -> FloatArray:
        """Probability density, ``(cells,)``."""
        return np.asarray(self.fractions.mean(axis=0) / np.diff(self.edges))


@dataclasses.dataclass(frozen=True, eq=False)
class BasinFrames:
    """In which basin of a plane the frames of a set are.

    Attributes
    ----------
    names : tuple of str
        Of the basins.
    states : (units, frames) ndarray of int
        Basin of every frame.
    """

    names: tuple[str, ...]
    states: NDArray[np.int64]

    def independent_visits(self) -> float:
        """Return how many independent frames would tell as much about the rarest exchange."""
        fractions = np.stack(
            [(self.states == k).mean(axis=1) for k in range(len(self.names))], axis=1
        )
        frames = np.full(len(self.names), self.states.shape[1])
        return float(UnitFractions(fractions, frames).effective_frames.min())


def unit_histograms(
    group: ObservableGroup,
    positions: Mapping[str, FloatArray],
    basins: Mapping[str, Sequence[BasinFrames]],
) -> dict[str, list[UnitHistograms]]:
    """Count every observable of a group, for all sets on the same cells.

    Parameters
    ----------
    group : ObservableGroup
        What to compute.
    positions : mapping of str to (units, frames, beads, dimensions) ndarray
        Frames in nm by set.
    basins : mapping of str to sequence of BasinFrames
        Per set, for each plane in which basin the frames are.

    Returns
    -------
    dict of str to list of UnitHistograms
        Per set, one entry per observable.
    """
    values = {name: group.of_units(frames) for name, frames in positions.items()}
    found: dict[str, list[UnitHistograms]] = {name: [] for name in values}
    for k, label in enumerate(group.labels):
        columns = {name: v[..., k] for name, v in values.items()}
        edges = np.linspace(*(group.period or _range_of([*columns.values()])), _CELLS + 1)
        for name, column in columns.items():
            cells = _cells(column, edges)
            fractions = _counts(cells) / column.shape[1]
            joint = tuple(_joint_counts(cells, one) for one in basins[name])
            found[name].append(
                UnitHistograms(
                    group.key, label, group.unit, edges, group.period is not None, fractions,
                    column.shape[1], joint,
                )
            )  # fmt: skip
    return found


_Floors: TypeAlias = tuple[FloatArray, FloatArray]
_Features: TypeAlias = tuple[list[tuple[str, str, str]], list[UnitFractions], _Floors]


def features_of(
    histograms: tuple[Sequence[UnitHistograms], Sequence[UnitHistograms]],
    basins: tuple[Sequence[BasinFrames], Sequence[BasinFrames]],
) -> _Features:
    """Cut observables into regions and return what a test needs of them.

    Returns
    -------
    list of (str, str, str), list of UnitFractions, (ndarray, ndarray)
        Group, observable and region of every feature; fractions of the frames of both sets; and
        the variances that these have at least because basins are visited by chance.
    """
    names: list[tuple[str, str, str]] = []
    columns: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    frames: tuple[list[int], list[int]] = ([], [])
    floors: tuple[list[float], list[float]] = ([], [])
    visits = [[one.independent_visits() for one in side] for side in basins]
    for pair in zip(*histograms, strict=True):
        for region, low, high in _regions(*pair):
            names.append((pair[0].group, pair[0].label, region))
            spreads = _spreads_over_basins(pair, (visits[0], visits[1]), low, high)
            for i, one in enumerate(pair):
                columns[i].append(one.fractions[:, low:high].sum(axis=1))
                frames[i].append(one.frames_per_unit)
                bounds = [s / n for s, n in zip(spreads, visits[i], strict=True)]
                floors[i].append(max(bounds, default=0.0))
    for plane in zip(*basins, strict=True):
        for k, name in enumerate(plane[0].names):
            names.append(("basins", name, "in this basin"))
            for i, side in enumerate(plane):
                columns[i].append((side.states == k).mean(axis=1))
                frames[i].append(side.states.shape[1])
                floors[i].append(0.0)
    sides = [
        UnitFractions(np.stack(c, axis=1), np.array(f, dtype=np.int64))
        for c, f in zip(columns, frames, strict=True)
    ]
    return names, sides, (np.array(floors[0]), np.array(floors[1]))


def _spreads_over_basins(
    pair: tuple[UnitHistograms, UnitHistograms],
    visits: tuple[list[float], list[float]],
    low: int,
    high: int,
) -> list[float]:
    """Return, per plane, the variance over basins of the fraction of a region.

    Divided by the number of independent visits to basins, it is the variance that a fraction has
    because basins are visited by chance. If all units of a set miss a slow basin, their scatter
    does not show it.
    """
    spreads = []
    for left, right, *weights in zip(pair[0].by_basin, pair[1].by_basin, *visits, strict=True):
        shares = [left / left.sum(), right / right.sum()]
        joint = np.average(shares, axis=0, weights=weights)
        population = joint.sum(axis=1)
        inside = joint[:, low:high].sum(axis=1) / np.maximum(population, 1e-300)
        spreads.append(float((population * (inside - population @ inside) ** 2).sum()))
    return spreads


def _regions(first: UnitHistograms, second: UnitHistograms) -> list[tuple[str, int, int]]:
    """Return regions of about equal population: their names, first cell and cell after the last.

    As many as leave enough units for each, so that a region is not ruled by one unit.
    """
    units = min(len(first.fractions), len(second.fractions))
    n = int(np.clip(units // _MIN_UNITS_PER_REGION, 2, _MAX_REGIONS))
    pooled = (first.fractions.mean(axis=0) + second.fractions.mean(axis=0)).cumsum() / 2.0
    inner = np.searchsorted(pooled, np.arange(1, n) / n) + 1
    cuts = np.unique(np.concatenate([[0], inner.clip(0, _CELLS), [_CELLS]])).tolist()
    edges = first.edges
    found = []
    for low, high in itertools.pairwise(cuts):
        left, right = (f"{edges[k]:.4g}" for k in (low, high))
        name = f"{left} to {right} {first.unit}"
        if not first.periodic and low == 0:
            name = f"below {right} {first.unit}"
        elif not first.periodic and high == _CELLS:
            name = f"above {left} {first.unit}"
        found.append((name.replace("-", "−"), low, high))
    return found


def _range_of(columns: list[FloatArray]) -> tuple[float, float]:
    low = min(float(c.min()) for c in columns)
    high = max(float(c.max()) for c in columns)
    # A molecule that fell apart must not put all others into one cell; it counts in the last one.
    inner = [np.quantile(c, (0.01, 0.99)) for c in columns]
    span = max(float(b - a) for a, b in inner)
    low = max(low, min(float(a) for a, _ in inner) - 2.0 * span)
    high = min(high, max(float(b) for _, b in inner) + 2.0 * span)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _cells(values: FloatArray, edges: FloatArray) -> NDArray[np.int64]:
    """Return the cell of every value."""
    n = len(edges) - 1
    scaled = (values - edges[0]) / (edges[-1] - edges[0]) * n
    return np.asarray(scaled.clip(0, n - 1).astype(np.int64))


def _counts(cells: NDArray[np.int64]) -> FloatArray:
    """Return counts (units, cells) of cells (units, frames)."""
    units = len(cells)
    index = cells + _CELLS * np.arange(units)[:, None]
    counts = np.bincount(index.ravel(), minlength=units * _CELLS)
    return counts.reshape(units, _CELLS).astype(np.float64)


def _joint_counts(cells: NDArray[np.int64], basins: BasinFrames) -> FloatArray:
    """Return counts (basins, cells); of long units only evenly spaced frames may have cells."""
    frames = basins.states.shape[1]
    states = basins.states[:, np.arange(cells.shape[1]) * frames // cells.shape[1]]
    n = len(basins.names)
    counts = np.bincount((states * _CELLS + cells).ravel(), minlength=n * _CELLS)
    return counts.reshape(n, _CELLS).astype(np.float64)
