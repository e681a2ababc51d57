"""Whether a set is what it seems: correlated frames, trajectories near their start, or changing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openmm_scoremd.analysis.comparison.features import (
    BasinFrames,
    UnitHistograms,
    features_of,
    unit_histograms,
)
from openmm_scoremd.analysis.comparison.planes import BasinPlane
from openmm_scoremd.analysis.observables.groups import ObservableGroup
from openmm_scoremd.analysis.statistics.kinetics import statistical_inefficiency
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.two_sample import family_wise_test

__all__ = ["Drift", "Slowness", "drift_of", "slowness_of"]

_MAX_COLUMNS = 24  # observables of a group that are looked at
_DOUBT = 0.01  # probability that chance makes a memory that is believed
_MIN_LENGTH = 4  # frames of a trajectory that has halves


@dataclasses.dataclass(frozen=True)
class Slowness:
    """How slowly the frames of a set forget each other.

    Attributes
    ----------
    inefficiency : float
        Frames that count as one independent frame, for the slowest observable.
    slowest : str
        That observable.
    memory : float
        Of trajectories, the correlation of the frames in the second half of a stretch without a
        break with the first frame of the stretch, for the observable that remembers most: 1 if
        nothing has moved, 0 if the start is forgotten or cannot be told from forgotten.
    remembered : str
        That observable; empty if there is none.
    """

    inefficiency: float
    slowest: str
    memory: float
    remembered: str


@dataclasses.dataclass(frozen=True)
class Drift:
    """First and second halves of trajectories, compared as two sets are.

    Attributes
    ----------
    p_value : float
        Probability of a difference as clear by chance; NaN where there are no halves. The halves of
        one replica resemble each other, so that it is rather too large.
    where : str
        The clearest difference, for people.
    """

    p_value: float
    where: str


def slowness_of(one: SampleSet, groups: Sequence[ObservableGroup]) -> Slowness:
    """Find the slowest observable of a set, and the one that remembers its start best."""
    found, memory = (1.0, ""), (0.0, "")
    for label, values in _columns(one, groups):
        pieces = one.pieces(values)
        found = max(found, (statistical_inefficiency(pieces), label), key=lambda entry: entry[0])
        if one.has_time:
            memory = max(memory, (_memory(pieces), label), key=lambda entry: entry[0])
    return Slowness(*found, *memory)


def drift_of(
    one: SampleSet, groups: Sequence[ObservableGroup], planes: Sequence[tuple[str, BasinPlane]],
    *, seed: int,
) -> Drift:  # fmt: skip
    """Compare the first half of all trajectories with the second half.

    Parameters
    ----------
    one : SampleSet
        The set.
    groups : sequence of ObservableGroup
        What is compared.
    planes : sequence of (str, BasinPlane)
        Name of the set, and a plane that has basins.
    seed : int
        Of the test.
    """
    if not one.has_time or one.length < _MIN_LENGTH:
        return Drift(math.nan, "")
    middle = one.length // 2
    parts = {"first": slice(0, middle), "second": slice(one.length - middle, None)}
    halves = {
        name: dataclasses.replace(one, positions=one.positions[:, part], breaks={})
        for name, part in parts.items()
    }
    units = {name: half.in_units(half.positions) for name, half in halves.items()}
    basins = {
        name: [
            BasinFrames(
                plane.title,
                plane.in_units[key].names,
                half.in_units(plane.states[key][:, parts[name]]),
            )
            for key, plane in planes
        ]
        for name, half in halves.items()
    }
    histograms: dict[str, list[UnitHistograms]] = {name: [] for name in halves}
    for group in groups:
        for name, counted in unit_histograms(group, units, basins).items():
            histograms[name] += counted
    first, second = halves
    features = features_of((histograms[first], histograms[second]), (basins[first], basins[second]))
    test = family_wise_test(*features.sides, seed=seed, floors=features.floors)
    if not test.judged.any():
        return Drift(math.nan, "")
    k = int(np.nanargmin(test.p_values))
    before, after = (100.0 * side.mean[k] for side in features.sides)
    region = features.regions[k]
    return Drift(
        test.p_value, f"{region.observable}, {region.name}: {before:.3g} %, then {after:.3g} %"
    )


def _columns(
    one: SampleSet, groups: Sequence[ObservableGroup]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield name and values of observables, of many in a group evenly chosen ones."""
    for group in groups:
        values = group.values(one.positions)
        n = len(group.labels)
        for k in sorted({i * n // _MAX_COLUMNS for i in range(_MAX_COLUMNS)}):
            column = values[..., k]
            # An angle is a direction: 179° and −179° are near each other.
            yield group.labels[k], np.exp(1j * np.radians(column)) if group.period else column


def _memory(pieces: Sequence[NDArray[Any]]) -> float:
    """Return the correlation of later frames with the first one, 0 where chance could make it.

    Stretches count by their length. Its error is that of a mean over stretches, which are
    independent, with Student's quantile for as many.
    """
    together = np.concatenate(pieces)
    centre = together.mean()
    variance = float(np.mean(np.abs(together - centre) ** 2))
    if len(pieces) < 2 or variance <= 1e-14 * max(1.0, float(np.abs(centre)) ** 2):
        return 0.0
    products = np.array(
        [
            (np.conj(piece[0] - centre) * (piece[len(piece) // 2 :] - centre).mean()).real
            for piece in pieces
        ]
    )
    weights = np.array([len(piece) for piece in pieces]) / len(together)
    mean = float(weights @ products)
    n = len(pieces)
    error = math.sqrt(float((weights**2) @ (products - mean) ** 2) * n / (n - 1))
    certain = mean > float(stats.t.isf(_DOUBT, n - 1)) * error
    return min(mean / variance, 1.0) if certain else 0.0
