"""How two sets of samples differ, observable by observable, and whether that can be chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd.analysis.comparison.features import (
    BasinFrames,
    Features,
    UnitHistograms,
    features_of,
)
from openmm_scoremd.analysis.comparison.measures import Measure, measured
from openmm_scoremd.analysis.comparison.metrics import wasserstein_of_histograms
from openmm_scoremd.analysis.comparison.table import Cells, Row, p_value_text, percent
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.two_sample import FamilyTest, family_wise_test
from openmm_scoremd.analysis.statistics.uncertainty import Estimate, NoiseFloor, Resampling

__all__ = ["Discrepancy", "ObservedSet", "PairResult", "Verdict", "compare_pair"]

Verdict: TypeAlias = Literal["consistent", "NOT consistent", "cannot tell"]

#: From the worst one on: that of several pairs is the first one there is.
VERDICTS: tuple[Verdict, ...] = ("NOT consistent", "cannot tell", "consistent")

#: Frames that only a larger difference than this would have shown, in the fraction of frames in a
#: region, tell nothing; see :func:`~openmm_scoremd.analysis.comparison.summary.summarise`.
VISIBLE_FROM = 0.25

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
class PairResult:
    """Two sets compared.

    Attributes
    ----------
    first, second : str
        Names of the sets.
    n_frames : (int, int)
        Frames of both that were compared.
    p_value : float
        Probability of a difference as clear as the clearest one by chance.
    alpha : float
        The sets are called inconsistent below this p-value.
    reason : str
        Why frames that do not contradict each other tell nothing; empty if they do.
    n_regions : int
        Regions compared.
    smallest_visible : float
        Power: the difference in the fraction of frames in a region that would have been noticed
        with a probability of 80 %: median over the regions of an observable, of the observable
        that shows least. Many stiff bonds do not hide that hardly any basin was visited twice.
    least_visible : str
        That observable, or the basins of a plane.
    discrepancies : tuple of Discrepancy
        Significant ones, the clearest first.
    metrics, observables : tuple of Row
        Both sets as a whole, and every observable by itself.
    """

    first: str
    second: str
    n_frames: tuple[int, int]
    p_value: float
    alpha: float
    reason: str
    n_regions: int
    smallest_visible: float
    least_visible: str
    discrepancies: tuple[Discrepancy, ...]
    metrics: tuple[Row, ...]
    observables: tuple[Row, ...]

    @property
    def verdict(self) -> Verdict:
        """What the comparison says."""
        if self.p_value < self.alpha:
            return "NOT consistent"
        return "cannot tell" if self.reason else "consistent"

    @property
    def told(self) -> str:
        """The p-value and, where nothing was found, the power."""
        if math.isnan(self.p_value):
            return "nothing could be judged"
        text = p_value_text(self.p_value)
        p_value = f"p {text}" if text.startswith("<") else f"p = {text}"
        if self.verdict != "consistent":
            return p_value
        return f"{p_value}, visible from {percent(self.smallest_visible)}"

    @property
    def consistent(self) -> bool:
        """Whether the sets agree as far as they can tell."""
        return self.verdict == "consistent"

    @property
    def clearest(self) -> list[Discrepancy]:
        """The clearest discrepancy of each observable, the clearest observable first."""
        seen: dict[tuple[str, str], Discrepancy] = {}
        for found in self.discrepancies:
            seen.setdefault((found.group, found.observable), found)
        return [*seen.values()]

    def lines(self) -> list[Cells]:
        """Return the metrics as lines of the table, and the p-value that decides below them."""
        decisive = (f"all {self.n_regions} regions", "", "", "", p_value_text(self.p_value))
        return [*(line for row in self.metrics for line in row.lines(self.n_frames)), decisive]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **dataclasses.asdict(self),
            "verdict": self.verdict,
            "consistent": self.consistent,
            "metrics": [row.to_dict() for row in self.metrics],
            "observables": [row.to_dict() for row in self.observables],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ObservedSet:
    """What is compared of one set.

    Attributes
    ----------
    name : str
        Of the set.
    histograms : sequence of UnitHistograms
        All observables, in the same order for all sets.
    basins : sequence of BasinFrames
        All planes that have basins.
    values : mapping of str to (units, frames, columns) ndarray
        Observables of the groups that are measured as a whole.
    doubts : tuple of str
        Why agreement with the set would mean nothing.
    """

    name: str
    histograms: Sequence[UnitHistograms]
    basins: Sequence[BasinFrames]
    values: Mapping[str, FloatArray]
    doubts: tuple[str, ...]

    @property
    def n_frames(self) -> int:
        """Frames that are compared."""
        return int(next(iter(self.values.values()))[..., 0].size)


def compare_pair(
    first: ObservedSet,
    second: ObservedSet,
    measures: Sequence[Measure],
    pool: Mapping[str, FloatArray],
    *,
    alpha: float,
    visible_from: float,
    options: Resampling,
) -> PairResult:
    """Compare two sets.

    Parameters
    ----------
    first, second : ObservedSet
        The sets.
    measures : sequence of Measure
        What is measured of the sets as a whole.
    pool : mapping of str to (frames, columns) ndarray
        Observables of the reference frames that noise floors are drawn from, by group.
    alpha : float
        p-value below which the sets are inconsistent.
    visible_from : float
        Differences from this on must be visible for the sets to be called consistent.
    options : Resampling
        Numbers of resamples, seed.
    """
    histograms = (first.histograms, second.histograms)
    features = features_of(histograms, (first.basins, second.basins))
    test = family_wise_test(*features.sides, seed=options.seed, floors=features.floors)
    seen = test.visible(alpha)
    least_visible, visible = _power(features, seen)
    metrics = []
    for one in measures:
        key = one.group.key
        numbers = measured(one, (first.values[key], second.values[key]), pool[key], options)
        inside = [
            (r.group == key and r.observable in one.observables) or one.plane == r.plane != ""
            for r in features.regions
        ]
        of_regions = _tested(test, seen, np.array(inside))
        metrics.append(Row(key, one.key, one.label, one.unit, one.kind, *numbers, *of_regions))
    return PairResult(
        first.name,
        second.name,
        n_frames=(first.n_frames, second.n_frames),
        p_value=test.p_value,
        alpha=alpha,
        reason="; ".join(_reasons((first, second), least_visible, visible, visible_from)),
        n_regions=int(test.judged.sum()),
        smallest_visible=visible,
        least_visible=least_visible,
        discrepancies=_discrepancies(features, test, alpha),
        metrics=tuple(metrics),
        observables=tuple(
            _observable_row(pair, features, test, seen, seed=options.seed)
            for pair in zip(*histograms, strict=True)
        ),
    )


def _reasons(
    sets: tuple[ObservedSet, ObservedSet], least: str, visible: float, visible_from: float
) -> Iterator[str]:
    """Yield what makes frames tell nothing though they do not contradict each other."""
    for one in sets:
        yield from one.doubts
    if not visible <= visible_from:
        where = f"a region of {least}" if least else "a region"
        yield (
            f"only differences above {percent(visible)} of the frames in {where} would have shown, "
            f"and must from {percent(visible_from)} on; more independent frames are needed"
        )


def _discrepancies(features: Features, test: FamilyTest, alpha: float) -> tuple[Discrepancy, ...]:
    first, second = (side.mean for side in features.sides)
    found = [
        Discrepancy(*region[:3], *map(float, numbers))
        for region, *numbers in zip(
            features.regions, first, second, test.standard_error, test.p_values, strict=True
        )
    ]
    clear = [one for one in found if one.p_value < alpha]
    clear.sort(key=lambda one: (one.p_value, -abs(one.second - one.first) / one.error))
    return tuple(clear)


def _tested(
    test: FamilyTest, visible: FloatArray, chosen: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the smallest p-value of some regions, and the difference visible there."""
    judged = chosen & test.judged
    if not judged.any():
        return math.nan, math.nan
    return float(test.p_values[judged].min()), float(np.median(visible[judged]))


def _power(features: Features, visible: FloatArray) -> tuple[str, float]:
    """Return the observable (or the basins) that shows least, and the difference visible there."""
    found: dict[str, list[float]] = {}
    for region, difference in zip(features.regions, visible.tolist(), strict=True):
        if math.isfinite(difference):
            name = f"the basins of {region.plane}" if region.plane else region.observable
            found.setdefault(name, []).append(difference)
    medians = {name: float(np.median(values)) for name, values in found.items()}
    return max(medians.items(), key=lambda entry: entry[1], default=("", math.nan))


def _observable_row(
    pair: tuple[UnitHistograms, UnitHistograms],
    features: Features,
    test: FamilyTest,
    visible: FloatArray,
    *,
    seed: int,
) -> Row:
    """Compare one observable, by the Wasserstein distance of its histograms.

    The floor is what that distance is by chance for two sets of one distribution with as many
    independent units.
    """
    generator = np.random.default_rng(seed)
    one = pair[0]
    sides = [side.fractions for side in pair]
    means = [side.mean(axis=0) for side in sides]

    def distances(differences: FloatArray) -> FloatArray:
        return wasserstein_of_histograms(differences, one.edges, periodic=one.periodic)

    resampled = [
        generator.multinomial(len(s), np.full(len(s), 1 / len(s)), _DRAWS) @ s / len(s)
        for s in sides
    ]
    by_chance = [
        _student(len(s), generator) @ (s - mean) / len(s)
        for s, mean in zip(sides, means, strict=True)
    ]
    value = float(distances((means[1] - means[0])[None])[0])
    floor = distances(by_chance[1] - by_chance[0])
    n_reference, n_samples = (len(side.fractions) * side.frames_per_unit for side in pair)
    inside = [(r.group, r.observable) == (one.group, one.label) for r in features.regions]
    return Row(
        one.group,
        "wasserstein",
        one.label,
        one.unit,
        "metric",
        Estimate(value, float(distances(resampled[1] - resampled[0]).std(ddof=1))),
        NoiseFloor(float(floor.mean()), float(floor.std(ddof=1)), n_reference, n_samples),
        value,
        *_tested(test, visible, np.array(inside)),
    )


def _student(n: int, generator: np.random.Generator) -> FloatArray:
    """Return random multipliers (draws, n) with the tails of Student's t for n units."""
    normal = generator.normal(size=(_DRAWS, n))
    scale = np.sqrt((n - 1) / generator.chisquare(n - 1, size=(_DRAWS, 1)))
    return np.asarray(normal * scale * math.sqrt(n / (n - 1)))
