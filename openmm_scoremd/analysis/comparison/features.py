"""Observables counted by unit and cell, and cut into the regions whose populations are compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.statistics.fractions import UnitFractions
from openmm_scoremd.analysis.statistics.grids import FloatArray

__all__ = ["BasinFrames", "Features", "Region", "UnitHistograms", "features_of", "unit_histograms"]

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
    plane : str
        Title of the plane.
    names : tuple of str
        Of the basins.
    states : (units, frames) ndarray of int
        Basin of every frame.
    """

    plane: str
    names: tuple[str, ...]
    states: NDArray[np.int64]

    @property
    def fractions(self) -> UnitFractions:
        """Fractions of the basins."""
        return UnitFractions.of_states(self.states, len(self.names))

    @property
    def independent_visits(self) -> float:
        """How many independent frames would tell as much about the rarest exchange."""
        return float(self.fractions.effective_frames.min())


class Region(NamedTuple):
    """A part of the range of an observable, or a basin of a plane, for people."""

    group: str
    observable: str
    name: str
    plane: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a test of two sets needs.

    Attributes
    ----------
    regions : list of Region
        Where frames are counted.
    sides : (UnitFractions, UnitFractions)
        Fractions of the frames of both sets there.
    floors : ((features,) ndarray, (features,) ndarray)
        Variances that these have at least because basins are visited by chance.
    """

    regions: list[Region]
    sides: tuple[UnitFractions, UnitFractions]
    floors: tuple[FloatArray, FloatArray]


def unit_histograms(
    group: ObservableGroup,
    positions: Mapping[str, NDArray[np.floating]],
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
            frames = column.shape[1]
            cells = _cells(column, edges)
            found[name].append(
                UnitHistograms(
                    group.key,
                    label,
                    group.unit,
                    edges,
                    group.period is not None,
                    fractions=_counts(np.arange(len(cells))[:, None], cells, len(cells)) / frames,
                    frames_per_unit=frames,
                    by_basin=tuple(
                        _counts(_thinned(one.states, frames), cells, len(one.names))
                        for one in basins[name]
                    ),
                )
            )
    return found


def features_of(
    histograms: tuple[Sequence[UnitHistograms], Sequence[UnitHistograms]],
    basins: tuple[Sequence[BasinFrames], Sequence[BasinFrames]],
) -> Features:
    """Cut the observables of two sets into regions, and add the basins."""
    regions: list[Region] = []
    columns: list[list[tuple[FloatArray, int, float]]] = [[], []]  # fractions, frames, floor
    visits = [[one.independent_visits for one in side] for side in basins]
    for pair in zip(*histograms, strict=True):
        for name, low, high in _regions(*pair):
            regions.append(Region(pair[0].group, pair[0].label, name))
            spreads = _spreads_over_basins(pair, visits, low, high)
            for column, one, n in zip(columns, pair, visits, strict=True):
                floor = max((s / v for s, v in zip(spreads, n, strict=True)), default=0.0)
                fractions = one.fractions[:, low:high].sum(axis=1)
                column.append((fractions, one.frames_per_unit, floor))
    for plane in zip(*basins, strict=True):
        for k, name in enumerate(plane[0].names):
            regions.append(Region("basins", name, "in this basin", plane[0].plane))
            for column, side in zip(columns, plane, strict=True):
                column.append((side.fractions.fractions[:, k], side.states.shape[1], 0.0))
    sides = [
        UnitFractions(np.stack([c[0] for c in column], axis=1), np.array([c[1] for c in column]))
        for column in columns
    ]
    floors = [np.array([c[2] for c in column]) for column in columns]
    return Features(regions, (sides[0], sides[1]), (floors[0], floors[1]))


def _spreads_over_basins(
    pair: tuple[UnitHistograms, UnitHistograms], visits: list[list[float]], low: int, high: int
) -> list[float]:
    """Return, per plane, the variance over basins of the fraction of a region.

    Divided by the number of independent visits to basins, it is the variance that a fraction has
    because basins are visited by chance. If all units of a set miss a slow basin, their scatter
    does not show it.
    """
    spreads = []
    for left, right, *weights in zip(pair[0].by_basin, pair[1].by_basin, *visits, strict=True):
        joint = np.average([left / left.sum(), right / right.sum()], axis=0, weights=weights)
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
    found = []
    for low, high in itertools.pairwise(cuts):
        left, right = (f"{first.edges[k]:.4g}" for k in (low, high))
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


def _counts(rows: NDArray[np.integer], cells: NDArray[np.int64], n_rows: int) -> FloatArray:
    """Return numbers of frames ``(n_rows, cells)`` from the row and the cell of every frame."""
    counts = np.bincount((rows * _CELLS + cells).ravel(), minlength=n_rows * _CELLS)
    return counts.reshape(n_rows, _CELLS).astype(np.float64)


def _thinned(states: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Return ``(units, frames)``: of long units only evenly spaced frames may have cells."""
    return states[:, np.arange(frames) * states.shape[1] // frames]
