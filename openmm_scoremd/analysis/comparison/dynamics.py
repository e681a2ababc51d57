"""What takes time in sets that have it: implied time scales, slow coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openmm_scoremd.analysis.comparison.planes import BasinPlane, surfaces_of
from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface
from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.statistics.grids import FloatArray, limits_of
from openmm_scoremd.analysis.statistics.kinetics import (
    ImpliedTimescales,
    SlowCoordinates,
    implied_timescales,
    slow_coordinates,
)
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.errors import MissingDependencyError

__all__ = ["SlowPlane", "Timescales", "slow_plane", "timescales_of"]

_LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # frames


@dataclasses.dataclass(frozen=True)
class Timescales:
    """Implied time scales of the jumps between the basins of a plane, for one set.

    Attributes
    ----------
    name, plane : str
        Of the set and of the plane.
    frame_interval : float or None
        Time between frames in ps, if it is known.
    found : ImpliedTimescales
        In frames.
    """

    name: str
    plane: str
    frame_interval: float | None
    found: ImpliedTimescales

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "set": self.name,
            "plane": self.plane,
            "frame_interval_ps": self.frame_interval,
            "lags_frames": list(self.found.lags),
            "timescales_frames": [
                [dataclasses.asdict(time) for time in row] for row in self.found.timescales
            ],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class SlowPlane:
    """Components of all sets, found from the trajectories of one.

    Attributes
    ----------
    name : str
        Of the set that they are found from.
    coordinates : SlowCoordinates
        The components.
    values : mapping of str to (..., 2) ndarray
        Of the frames of every set.
    """

    name: str
    coordinates: SlowCoordinates
    values: Mapping[str, FloatArray]

    @property
    def surfaces(self) -> dict[str, FreeEnergySurface]:
        """Free energies of all sets."""
        flat = np.concatenate([values.reshape(-1, 2) for values in self.values.values()])
        return surfaces_of(self.values, limits=limits_of(flat, margin=0.02))


def timescales_of(
    sets: Mapping[str, SampleSet], planes: Sequence[BasinPlane], *, seed: int
) -> tuple[Timescales, ...]:
    """Return the time scales of all sets that have time, in planes that have basins."""
    found = []
    for plane in planes:
        for name, one in sets.items():
            lags = [lag for lag in _LAGS if lag <= _longest(one) // 4]
            if one.has_time and lags and plane.basins.n_basins > 1:
                times = implied_timescales(
                    one.pieces(plane.states[name]),
                    [replica for replica, _, _ in one.segments],
                    n_states=plane.basins.n_basins,
                    lags=lags,
                    seed=seed,
                )
                found.append(Timescales(name, plane.title, one.frame_interval, times))
    return tuple(found)


def slow_plane(
    sets: Mapping[str, SampleSet], groups: Sequence[ObservableGroup]
) -> tuple[SlowPlane | None, tuple[str, ...]]:
    """Find slow coordinates from the first set that is long enough.

    Returns
    -------
    SlowPlane or None, tuple of str
        What was found, and what to say if trajectories are there and nothing was.
    """
    candidates = [name for name in sets if sets[name].has_time]
    if not candidates or groups[0].key == "coordinates":
        return None, ()
    # Dihedral angles of the backbone, or distances.
    group = groups[0] if groups[0].period else groups[-1]
    for name in candidates:
        one = sets[name]
        pieces = one.pieces(group.directions(one.positions))
        try:
            found = slow_coordinates(pieces, lag=max(1, _longest(one) // 10))
        except MissingDependencyError as error:
            return None, (f"Slow coordinates (TICA) were left out: {error}.",)
        if found is not None:
            values = {n: found.project(group.directions(s.positions)) for n, s in sets.items()}
            return SlowPlane(name, found, values), ()
    return None, ("Slow coordinates (TICA) were left out: the trajectories are too short.",)


def _longest(one: SampleSet) -> int:
    return max(last - first for _, first, last in one.segments)
