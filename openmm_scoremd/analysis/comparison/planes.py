"""Planes that basins are found in: backbone dihedrals, coordinates, or principal components."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.observables.basins import Basins, find_basins
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface, free_energy_2d
from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.two_sample import UnitFractions
from openmm_scoremd.analysis.statistics.uncertainty import Estimate

__all__ = ["BasinPlane", "basin_planes", "surfaces_of"]

_PICTURE_BINS = 45
_MAX_PLANES = 12


@dataclasses.dataclass(frozen=True, eq=False)
class BasinPlane:
    """A plane, its basins, and where the frames of every set are.

    Attributes
    ----------
    title : str
        What the plane belongs to.
    axes : (str, str)
        Axis labels with units.
    basins : Basins
        Found from the baseline.
    values : mapping of str to ndarray
        Per set ``(frames, 2)`` or ``(replicas, frames, 2)``.
    states : mapping of str to ndarray of int
        Per set, the basin of every frame.
    populations : mapping of str to tuple of Estimate
        Per set, the fraction of frames in each basin.
    """

    title: str
    axes: tuple[str, str]
    basins: Basins
    values: Mapping[str, FloatArray]
    states: Mapping[str, NDArray[np.int64]]
    populations: Mapping[str, tuple[Estimate, ...]]

    def basin_name(self, basin: int) -> str:
        """Return a letter and where the density is highest."""
        x, y = self.basins.centers[basin]
        unit = "°" if self.basins.periodic else ""
        digits = 0 if self.basins.periodic else 2
        position = f"{x:.{digits}f}{unit}, {y:.{digits}f}{unit}".replace("-", "−")
        return f"{chr(ord('A') + basin % 26)} ({position})"

    def to_dict(self) -> dict[str, Any]:
        """Return names, centres and populations of the basins for JSON."""
        return {
            "plane": self.title,
            "axes": list(self.axes),
            "basins": [
                {
                    "name": self.basin_name(k),
                    "center": self.basins.centers[k].tolist(),
                    "populations": {
                        name: dataclasses.asdict(found[k])
                        for name, found in self.populations.items()
                    },
                }
                for k in range(self.basins.n_basins)
            ],
        }


def basin_planes(
    sets: Mapping[str, SampleSet], groups: list[ObservableGroup], *, baseline: str
) -> list[BasinPlane]:
    """Divide the planes of a molecule into basins of the baseline's density.

    Parameters
    ----------
    sets : mapping of str to SampleSet
        All sets.
    groups : list of ObservableGroup
        Observables; the backbone dihedrals or coordinates among them are the planes, otherwise the
        first two principal components of the distances.
    baseline : str
        Name of the set that basins are found from.

    Returns
    -------
    list of BasinPlane
        Empty where there are no two coordinates.
    """
    planes = []
    for title, axes, period, project in _projections(sets[baseline], groups):
        values = {
            name: project(np.asarray(s.positions, dtype=np.float64)) for name, s in sets.items()
        }
        limits = None if period is None else (period, period)
        reference = values[baseline].reshape(-1, 2)
        if period is None and not (np.ptp(reference, axis=0) > 0).all():
            continue
        basins = find_basins(reference, limits=limits)
        states = {name: basins.assign(v) for name, v in values.items()}
        populations = {
            name: _populations(sets[name].in_units(s), basins.n_basins)
            for name, s in states.items()
        }
        planes.append(BasinPlane(title, axes, basins, values, states, populations))
    return planes


def surfaces_of(
    values: Mapping[str, FloatArray], *, limits: tuple[tuple[float, float], ...]
) -> dict[str, FreeEnergySurface]:
    """Return the free energy of every set that has frames within the limits."""
    found = {}
    for name, points in values.items():
        flat = points.reshape(-1, 2)
        inside = [
            (flat[:, k] >= low) & (flat[:, k] <= high) for k, (low, high) in enumerate(limits)
        ]
        if (inside[0] & inside[1]).any():
            found[name] = free_energy_2d(flat, bins=_PICTURE_BINS, limits=limits)
    return found


_Projection = tuple[
    str, tuple[str, str], tuple[float, float] | None, Callable[[FloatArray], FloatArray]
]


def _projections(baseline: SampleSet, groups: list[ObservableGroup]) -> list[_Projection]:
    by_key = {group.key: group for group in groups}
    for key in ("backbone", "coordinates"):
        if key in by_key:
            return _pairs_of(by_key[key])
    if "distances" not in by_key:
        return []
    project = _principal_components(baseline.positions, by_key["distances"])
    if project is None:
        return []
    return [("Distances", ("first component", "second component"), None, project)]


def _pairs_of(group: ObservableGroup) -> list[_Projection]:
    pairs: list[_Projection] = []
    for k in range(0, min(len(group.labels), 2 * _MAX_PLANES), 2):

        def project(positions: FloatArray, first: int = k) -> FloatArray:
            return np.asarray(group.compute(positions)[..., first : first + 2], dtype=np.float64)

        x, y = (f"{label} ({group.unit})" for label in group.labels[k : k + 2])
        title = group.labels[k].partition(" ")[2] or group.title
        pairs.append((title, (x, y), group.period, project))
    return pairs


def _principal_components(
    positions: NDArray[np.floating], group: ObservableGroup
) -> Callable[[FloatArray], FloatArray] | None:
    """Return a projection on the two components of the distances that vary most."""
    found = group.compute(np.asarray(positions, dtype=np.float64))
    values = np.asarray(found, dtype=np.float64).reshape(-1, len(group.labels))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    used = spread > 1e-9
    if used.sum() < 2:
        return None
    scaled = (values[:, used] - mean[used]) / spread[used]
    _, _, rows = np.linalg.svd(np.cov(scaled.T))
    # The sign of a component is arbitrary; this makes it the same on every machine.
    signs = np.sign(rows[:2, :].sum(axis=1))
    vectors = (rows[:2] * np.where(signs == 0, 1.0, signs)[:, None]).T

    def project(frames: FloatArray) -> FloatArray:
        found = np.asarray(group.compute(frames), dtype=np.float64)
        return np.asarray(((found[..., used] - mean[used]) / spread[used]) @ vectors)

    return project


def _populations(states: NDArray[np.int64], n_basins: int) -> tuple[Estimate, ...]:
    """Return fractions with standard errors from (units, frames) states."""
    fractions = np.stack([(states == k).mean(axis=1) for k in range(n_basins)], axis=1)
    frames = np.full(n_basins, states.shape[1])
    sides = UnitFractions(fractions, frames)
    # Never zero, also where no unit differs: one visit more or less is always possible.
    size = sides.effective_frames
    inside = (sides.mean * size + 0.5) / (size + 1.0)
    error = np.sqrt(inside * (1.0 - inside) / (size + 2.0))
    return tuple(Estimate(float(v), float(e)) for v, e in zip(sides.mean, error, strict=True))
