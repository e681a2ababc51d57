"""Planes that basins are found in: backbone dihedrals, coordinates, or principal components."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.comparison.features import BasinFrames
from openmm_scoremd.analysis.observables.basins import Basins, find_basins
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface, free_energy_2d
from openmm_scoremd.analysis.observables.groups import ObservableGroup, plane_title
from openmm_scoremd.analysis.statistics.grids import AxisLimits, FloatArray
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.uncertainty import Estimate

__all__ = ["PICTURE_BINS", "BasinPlane", "basin_planes", "surfaces_of"]

#: Bins per axis of pictures: coarser than those of the metrics, to be seen.
PICTURE_BINS = 45

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
    in_units : mapping of str to BasinFrames
        The same by the independent units of the set.
    marks : tuple of str
        What the frames of each basin have in common, where the axes say little; otherwise empty.
    """

    title: str
    axes: tuple[str, str]
    basins: Basins
    values: Mapping[str, FloatArray]
    states: Mapping[str, NDArray[np.int64]]
    in_units: Mapping[str, BasinFrames]
    marks: tuple[str, ...] = ()

    @property
    def populations(self) -> dict[str, tuple[Estimate, ...]]:
        """Per set, the fraction of frames in each basin."""
        return {name: frames.fractions.estimates for name, frames in self.in_units.items()}

    @property
    def basin_names(self) -> list[str]:
        """A letter for each basin, and what marks it or where its density is highest."""
        if self.marks:
            return [f"{chr(ord('A') + k % 26)} ({mark})" for k, mark in enumerate(self.marks)]
        unit, digits = ("°", 0) if self.basins.periodic else ("", 2)
        return [
            f"{chr(ord('A') + k % 26)} ({x:.{digits}f}{unit}, {y:.{digits}f}{unit})".replace(
                "-", "−"
            )
            for k, (x, y) in enumerate(self.basins.centers)
        ]

    @property
    def surfaces(self) -> dict[str, FreeEnergySurface]:
        """Free energies of all sets."""
        return surfaces_of(self.values, limits=self.basins.limits)

    def to_dict(self) -> dict[str, Any]:
        """Return names, centres and populations of the basins for JSON."""
        populations = self.populations
        return {
            "plane": self.title,
            "axes": list(self.axes),
            "basins": [
                {
                    "name": name,
                    "center": self.basins.centers[k].tolist(),
                    "populations": {
                        key: dataclasses.asdict(found[k]) for key, found in populations.items()
                    },
                }
                for k, name in enumerate(self.basin_names)
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
    for title, axes, period, project, measured in _projections(sets[baseline], groups):
        values = {name: project(one.positions) for name, one in sets.items()}
        reference = values[baseline].reshape(-1, 2)
        if period is None and not (np.ptp(reference, axis=0) > 0).all():
            continue
        basins = find_basins(reference, limits=None if period is None else (period, period))
        plane = BasinPlane(
            title, axes, basins, values, {n: basins.assign(v) for n, v in values.items()}, {},
            _marks(measured, sets[baseline].positions, basins.assign(reference), basins.n_basins),
        )  # fmt: skip
        names = tuple(f"basin {name} of {title}" for name in plane.basin_names)
        frames = {
            name: BasinFrames(title, names, one.in_units(plane.states[name]))
            for name, one in sets.items()
        }
        planes.append(dataclasses.replace(plane, in_units=frames))
    return planes


def surfaces_of(
    values: Mapping[str, FloatArray], *, limits: AxisLimits
) -> dict[str, FreeEnergySurface]:
    """Return the free energy of every set that has frames ``(..., 2)`` within the limits."""
    low, high = np.transpose(limits)
    return {
        name: free_energy_2d(points, bins=PICTURE_BINS, limits=limits)
        for name, points in values.items()
        if ((points >= low) & (points <= high)).all(axis=-1).any()
    }


_Project: TypeAlias = Callable[[NDArray[np.floating]], FloatArray]


class _Projection(NamedTuple):
    title: str
    axes: tuple[str, str]
    period: tuple[float, float] | None
    project: _Project
    measured: Mapping[str, _Project]  # (frames,) values that mark the basins, by name


def _projections(baseline: SampleSet, groups: list[ObservableGroup]) -> list[_Projection]:
    by_key = {group.key: group for group in groups}
    for key in ("backbone", "coordinates"):
        if key in by_key:
            return _pairs_of(by_key[key])
    found = _principal_components(baseline.positions, by_key["distances"])
    return [] if found is None else [found]


def _pairs_of(group: ObservableGroup) -> list[_Projection]:
    pairs: list[_Projection] = []
    for k in range(0, min(len(group.labels), 2 * _MAX_PLANES), 2):

        def project(positions: NDArray[np.floating], first: int = k) -> FloatArray:
            return group.values(positions)[..., first : first + 2]

        x, y = (f"{label} ({group.unit})" for label in group.labels[k : k + 2])
        pairs.append(_Projection(plane_title(group, k), (x, y), group.period, project, {}))
    return pairs


def _principal_components(
    positions: NDArray[np.floating], group: ObservableGroup
) -> _Projection | None:
    """Return a projection on the two components of the distances that vary most.

    An axis is named by the distance that it follows best, and by its correlation with that.
    """
    values = group.values(positions).reshape(-1, len(group.labels))
    mean, spread = values.mean(axis=0), values.std(axis=0)
    used = spread > 1e-9
    if used.sum() < 2:
        return None
    scaled = (values[:, used] - mean[used]) / spread[used]
    _, variances, rows = np.linalg.svd(np.cov(scaled.T))
    # The sign of a component is arbitrary; this makes it the same on every machine.
    signs = np.sign(rows[:2, :].sum(axis=1))
    vectors = (rows[:2] * np.where(signs == 0, 1.0, signs)[:, None]).T

    def project(frames: NDArray[np.floating]) -> FloatArray:
        return np.asarray(((group.values(frames)[..., used] - mean[used]) / spread[used]) @ vectors)

    names = [label for label, one in zip(group.labels, used, strict=True) if one]
    correlations = vectors * np.sqrt(variances[:2])  # of scaled distances and components
    best = np.abs(correlations).argmax(axis=0).tolist()
    x, y = (
        f"component {k + 1} (r = {correlations[row, k]:.2f} with {names[row]})".replace("-", "−")
        for k, row in enumerate(best)
    )
    columns = {names[row]: int(np.flatnonzero(used)[row]) for row in best}

    def column(frames: NDArray[np.floating], which: int) -> FloatArray:
        return group.values(frames)[..., which]

    measured = {name: partial(column, which=which) for name, which in columns.items()}
    return _Projection("principal components of the distances", (x, y), None, project, measured)


def _marks(
    measured: Mapping[str, _Project],
    positions: NDArray[np.floating],
    states: NDArray[np.int64],
    n_basins: int,
) -> tuple[str, ...]:
    """Return the mean distances of every basin as text, such as ``"CA1 … CA5 0.62 nm"``."""
    columns = {name: values(positions).ravel() for name, values in measured.items()}
    return tuple(
        ", ".join(f"{name} {values[states == k].mean():.2f} nm" for name, values in columns.items())
        for k in range(n_basins)
        if columns
    )
