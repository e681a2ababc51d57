"""How sets of samples differ, observable by observable, and whether that can be chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.comparison.features import BasinFrames, UnitHistograms, features_of
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.two_sample import family_wise_test
from openmm_scoremd.analysis.statistics.uncertainty import Estimate

__all__ = [
    "Discrepancy",
    "ObservableDifference",
    "PairResult",
    "compare_pair",
]

_DRAWS = 200


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """A region that the two sets of a pair populate differently.

    Attributes
    ----------
    group, observable, region : str
        What and where, for people.
    first, second : float
        Fractions of frames.
    error : float
        Standard error of the difference, if there were none.
    p_value : float
        Probability that any region of any observable differs as clearly by chance.
    """

    group: str
    observable: str
    region: str
    first: float
    second: float
    error: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class ObservableDifference:
    """One observable of a pair of sets.

    Attributes
    ----------
    group, observable, unit : str
        What is compared.
    distance : Estimate
        Wasserstein-1 distance of the distributions (around the circle for dihedrals) in ``unit``,
        and its bootstrap error.
    floor, floor_95 : float
        What that distance is by chance for two sets of one distribution with as many independent
        units: mean and 95th percentile.
    p_value : float
        That of its clearest discrepancy, corrected for the number of all regions.
    """

    group: str
    observable: str
    unit: str
    distance: Estimate
    floor: float
    floor_95: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class PairResult:
    """Two sets compared.

    Attributes
    ----------
    first, second : str
        Names of the sets.
    p_value : float
        Probability of a difference as clear as the clearest one by chance.
    level : float
        The sets are called inconsistent below this p-value.
    consistent : bool
        The verdict.
    n_regions : int
        Regions compared.
    smallest_visible : float
        Median over regions of the smallest difference in the fraction of frames that would have
        been noticed (four standard errors).
    discrepancies : tuple of Discrepancy
        Significant ones, the clearest first.
    observables : tuple of ObservableDifference
        All observables.
    """

    first: str
    second: str
    p_value: float
    level: float
    consistent: bool
    n_regions: int
    smallest_visible: float
    discrepancies: tuple[Discrepancy, ...]
    observables: tuple[ObservableDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def compare_pair(
    names: tuple[str, str],
    histograms: tuple[Sequence[UnitHistograms], Sequence[UnitHistograms]],
    basins: tuple[Sequence[BasinFrames], Sequence[BasinFrames]],
    *,
    level: float,
    seed: int,
) -> PairResult:
    """Compare two sets.

    Parameters
    ----------
    names : (str, str)
        Of the sets.
    histograms : two sequences of UnitHistograms
        All observables of both sets, in the same order.
    basins : two sequences of BasinFrames
        The same planes of both sets.
    level : float
        p-value below which the sets are inconsistent.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    PairResult
        Distances, discrepancies, verdict.
    """
    regions, sides, floors = features_of(histograms, basins)
    test = family_wise_test(*sides, seed=seed, floors=floors)
    found = [
        Discrepancy(*region, float(sides[0].mean[k]), float(sides[1].mean[k]),
                    float(test.standard_error[k]), float(test.p_values[k]))
        for k, region in enumerate(regions)
    ]  # fmt: skip
    clear = [d for d in found if d.p_value < level]
    clear.sort(key=lambda d: (d.p_value, -abs(d.second - d.first) / d.error))
    return PairResult(
        *names,
        p_value=test.p_value,
        level=level,
        consistent=not test.p_value < level,
        n_regions=int(test.judged.sum()),
        smallest_visible=float(np.median(4.0 * test.standard_error[test.judged])),
        discrepancies=tuple(clear),
        observables=tuple(
            _difference(first, second, found, seed=seed)
            for first, second in zip(*histograms, strict=True)
        ),
    )


def _difference(
    first: UnitHistograms, second: UnitHistograms, found: Sequence[Discrepancy], *, seed: int
) -> ObservableDifference:
    generator = np.random.default_rng(seed)
    sides = [one.fractions for one in (first, second)]
    means = [side.mean(axis=0) for side in sides]

    def distances(differences: FloatArray) -> FloatArray:
        return _transport(differences, first.edges, periodic=first.periodic)

    value = float(distances(means[1] - means[0])[0])
    resampled = [
        generator.multinomial(len(s), np.full(len(s), 1 / len(s)), _DRAWS) @ s / len(s)
        for s in sides
    ]
    by_chance = [
        _student(len(s), generator) @ (s - mean) / len(s)
        for s, mean in zip(sides, means, strict=True)
    ]
    floor = distances(by_chance[1] - by_chance[0])
    own = [d.p_value for d in found if (d.group, d.observable) == (first.group, first.label)]
    finite = [p for p in own if math.isfinite(p)]
    return ObservableDifference(
        group=first.group,
        observable=first.label,
        unit=first.unit,
        distance=Estimate(value, float(distances(resampled[1] - resampled[0]).std(ddof=1))),
        floor=float(floor.mean()),
        floor_95=float(np.quantile(floor, 0.95)),
        p_value=min(finite, default=math.nan),
    )


def _student(n: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return random multipliers (draws, n) with the tails of Student's t for n units."""
    normal = generator.normal(size=(_DRAWS, n))
    scale = np.sqrt((n - 1) / generator.chisquare(n - 1, size=(_DRAWS, 1)))
    return np.asarray(normal * scale * math.sqrt(n / (n - 1)))


def _transport(differences: FloatArray, edges: FloatArray, *, periodic: bool) -> FloatArray:
    """Return Wasserstein-1 distances of densities that differ by ``(..., cells)``."""
    cumulative = np.atleast_2d(differences).cumsum(axis=1)
    if periodic:
        # Around a circle mass may flow both ways; the median is the best constant flow.
        cumulative = cumulative - np.median(cumulative, axis=1, keepdims=True)
    return np.asarray(np.abs(cumulative) @ np.diff(edges))
