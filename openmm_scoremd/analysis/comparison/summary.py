"""Everything that a report says, as numbers: any sets of samples of one molecule, compared."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_scoremd._files.plain_json import without_nan
from openmm_scoremd.analysis.comparison.dynamics import (
    SlowPlane,
    Timescales,
    slow_plane,
    timescales_of,
)
from openmm_scoremd.analysis.comparison.features import UnitHistograms, unit_histograms
from openmm_scoremd.analysis.comparison.measures import measured_groups, measures_of
from openmm_scoremd.analysis.comparison.pairs import (
    VERDICTS,
    VISIBLE_FROM,
    ObservedSet,
    PairResult,
    Verdict,
    compare_pair,
)
from openmm_scoremd.analysis.comparison.planes import BasinPlane, basin_planes
from openmm_scoremd.analysis.comparison.sets import SetSummary
from openmm_scoremd.analysis.comparison.stationarity import Slowness, drift_of, slowness_of
from openmm_scoremd.analysis.comparison.table import text_table
from openmm_scoremd.analysis.observables.groups import (
    ObservableGroup,
    coordinate_group,
    energy_group,
    molecular_groups,
)
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.analysis.statistics.uncertainty import Resampling
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.topology import BeadTopology

__all__ = ["REFERENCE", "Summary", "check_levels", "summarise"]

#: Name of the set that all others are held against, if there is one of that name.
REFERENCE = "reference"

_FOOTNOTES = """
value        metric with its bootstrap error; P: fraction of frames
noise floor  the metric between two sets of independent reference frames: mean
             and scatter of a single comparison; P: fraction in the other set
ratio        value / noise floor at the same numbers of frames. Frames of a
             simulation are correlated: a perfect one still lies above 1
p            of the clearest difference, corrected for the number of all regions
visible from the difference in the fraction of frames in a region that would
             have been noticed (four times of five), of the slowest observable"""


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """Numbers of a report.

    Attributes
    ----------
    baseline : str
        Set that basins come from.
    n_pool : int
        Independent frames that noise floors are drawn from.
    sets : tuple of SetSummary
        The baseline, then the others in the order given.
    pairs : tuple of PairResult
        Every two sets.
    histograms : mapping of str to sequence of UnitHistograms
        Per set, all observables.
    groups : tuple of ObservableGroup
        What they are.
    planes : tuple of BasinPlane
        Basins and populations.
    timescales : tuple of Timescales
        Of sets that have time.
    slow : SlowPlane or None
        Slow coordinates, where trajectories are long enough.
    notes : tuple of str
        What was left out, and why.
    visible_from : float
        Differences from this on had to be visible for sets to be called consistent.
    """

    baseline: str
    n_pool: int
    sets: tuple[SetSummary, ...]
    pairs: tuple[PairResult, ...]
    histograms: Mapping[str, Sequence[UnitHistograms]]
    groups: tuple[ObservableGroup, ...]
    planes: tuple[BasinPlane, ...]
    timescales: tuple[Timescales, ...]
    slow: SlowPlane | None
    notes: tuple[str, ...]
    visible_from: float

    @property
    def verdict(self) -> Verdict:
        """That of all pairs together."""
        found = {pair.verdict for pair in self.pairs}
        return next(one for one in VERDICTS if one in found)

    @property
    def consistent(self) -> bool:
        """Whether all sets agree as far as they can tell."""
        return self.verdict == "consistent"

    def histograms_of(self, group: str, label: str) -> dict[str, UnitHistograms]:
        """Return the histograms of one observable by set."""
        return {
            name: next(one for one in columns if (one.group, one.label) == (group, label))
            for name, columns in self.histograms.items()
        }

    def heading(self, pair: PairResult) -> str:
        """Return what stands above the metrics of a pair."""
        one = self._set(pair.second)
        units = "" if one.unit_kind == "batches" else f" in {one.n_units} {one.unit_kind}"
        first, second = pair.n_frames
        return f"{one.name}: {second:,} frames{units}, against {first:,} of {pair.first}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for NaN."""
        content = {
            "n_reference": self.pairs[0].n_frames[0],
            "n_pool": self.n_pool,
            "sets": [self._against(pair) for pair in self.pairs if pair.first == self.baseline],
            "verdict": {
                "consistent": self.consistent,
                "inconsistent_pairs": [
                    [pair.first, pair.second]
                    for pair in self.pairs
                    if pair.verdict == "NOT consistent"
                ],
                "visible_from": self.visible_from,
            },
            "sample_sets": [dataclasses.asdict(entry) for entry in self.sets],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "basins": [plane.to_dict() for plane in self.planes],
            "timescales": [entry.to_dict() for entry in self.timescales],
            "slow_coordinates": self.slow
            and {"from": self.slow.name, "lag_frames": self.slow.coordinates.lag},
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = without_nan(content)
        return plain

    def format_table(self) -> str:
        """Return the metrics of all pairs as plain text, at most 80 columns unless names are long.

        Below stand the footnotes and the verdict.
        """
        blocks = [(self.heading(pair), pair.lines()) for pair in self.pairs]
        about = "\n".join(one.told for one in self.sets)
        return f"{text_table(blocks)}\n{_FOOTNOTES}\n\n{about}\n\n{self.format_verdict()}\n"

    def format_verdict(self) -> str:
        """Return a few lines of plain text for every pair: consistent or not, and where."""
        lines = []
        for pair in self.pairs:
            lines.append(f"{pair.second} and {pair.first}: {pair.verdict} ({pair.told})")
            if pair.reason:
                lines += textwrap.wrap(pair.reason, 80, initial_indent="  ", subsequent_indent="  ")
            for found in pair.clearest[:3]:
                lines.append(
                    f"  {found.observable}, {found.region}: {found.second:.3f} of "
                    f"{pair.second}, {found.first:.3f} of {pair.first}"
                )
        return "\n".join(lines)

    def _set(self, name: str) -> SetSummary:
        return next(one for one in self.sets if one.name == name)

    def _against(self, pair: PairResult) -> dict[str, Any]:
        """Return what a set is against the baseline, as programs have read it from the first."""
        one = self._set(pair.second)
        rows = [row.to_dict() for row in pair.metrics]
        for row in rows:
            if row["kind"] == "population":
                row["reference"] = {"value": row["floor"]["mean"], "error": row["floor"]["spread"]}
            row["estimate"] = row["value"]
        return {
            "name": one.name,
            "n_frames": pair.n_frames[1],
            "n_units": one.n_units,
            "unit_kind": one.unit_kind,
            "metrics": [row for row in rows if row["kind"] == "metric"],
            "populations": [row for row in rows if row["kind"] == "population"],
        }


def summarise(
    sets: Mapping[str, SampleSet],
    topology: BeadTopology,
    *,
    pool: NDArray[np.floating] | None = None,
    energy: Callable[[NDArray[np.floating]], NDArray[np.floating]] | None = None,
    energy_frames: int = 500,
    resampling: Resampling | None = None,
    alpha: float = 0.01,
    visible_from: float = VISIBLE_FROM,
) -> Summary:
    """Compare sets of samples with each other.

    Parameters
    ----------
    sets : mapping of str to SampleSet
        Two sets or more, in the order of the report. One called ``"reference"`` is the baseline,
        otherwise the first one is.
    topology : BeadTopology
        The beads of all sets.
    pool : (frames, beads, dimensions) ndarray, optional
        Independent frames in nm that noise floors are drawn from, best as many as two sets
        together; training frames may be among them. Default: those of the baseline.
    energy : callable, optional
        Maps frames (frames, beads, dimensions) in nm to energies (frames,) in kJ/mol.
    energy_frames : int
        Frames of each set that energies are computed of.
    resampling : Resampling, optional
        How errors and noise floors are found, frames kept of each set, seed.
    alpha : float
        Probability of calling any two sets inconsistent though all have one distribution.
    visible_from : float
        Sets that do not contradict each other are called consistent only if differences from this
        on, in the fraction of frames in a region, would have been noticed.

    Returns
    -------
    Summary
        All numbers; table and verdict rest on the same frames.

    Raises
    ------
    InvalidInputError
        If there are fewer than two sets, they are not of these beads, the pool holds NaN, or
        ``alpha`` or ``visible_from`` does not lie between 0 and 1.
    """
    _check(sets, topology)
    check_levels(alpha=alpha, visible_from=visible_from)
    options = resampling or Resampling()
    baseline = REFERENCE if REFERENCE in sets else next(iter(sets))
    names = [baseline, *(name for name in sets if name != baseline)]
    sets = {name: sets[name].thinned(options.max_frames) for name in names}
    planar = sets[baseline].positions.shape[-1] == 2
    groups = [coordinate_group()] if planar else molecular_groups(topology)
    floor = SampleSet(pool) if pool is not None else sets[baseline]
    slowness = {name: slowness_of(one, groups) for name, one in sets.items()}
    sets = {
        name: dataclasses.replace(one, inefficiency=slowness[name].inefficiency)
        for name, one in sets.items()
    }
    planes = basin_planes(sets, groups, baseline=baseline)
    of_energy = [] if energy is None else [energy_group(energy, max_frames=energy_frames)]
    sampled = [*groups, *of_energy]
    about = _set_summaries(sets, slowness, groups, planes, alpha=alpha, seed=options.seed)
    observed = _observed(sets, sampled, planes, about)
    measured = measured_groups(groups)
    of_pool = _columns(measured, floor)
    measures = measures_of(measured, of_pool)
    pairs = [*itertools.combinations(observed, 2)]
    slow, notes = slow_plane(sets, groups)
    return Summary(
        baseline=baseline,
        n_pool=floor.n_frames,
        sets=tuple(about.values()),
        pairs=tuple(
            compare_pair(
                *pair,
                measures,
                of_pool,
                alpha=alpha / len(pairs),
                visible_from=visible_from,
                options=options,
            )
            for pair in pairs
        ),
        histograms={one.name: one.histograms for one in observed},
        groups=tuple(sampled),
        planes=tuple(planes),
        timescales=timescales_of(sets, planes, seed=options.seed),
        slow=slow,
        notes=notes,
        visible_from=visible_from,
    )


def check_levels(*, alpha: float, visible_from: float) -> None:
    """Raise :class:`InvalidInputError` unless both lie between 0 and 1."""
    for name, value in (("alpha", alpha), ("visible_from", visible_from)):
        if not 0.0 < value < 1.0:
            raise InvalidInputError(f"{name} is {value}; it must lie between 0 and 1")


def _check(sets: Mapping[str, SampleSet], topology: BeadTopology) -> None:
    if len(sets) < 2:
        raise InvalidInputError(
            f"there {'is one set' if sets else 'are no sets'} of samples; a comparison needs two: "
            "add independent frames, a simulation or a reference"
        )
    shapes = {one.positions.shape[-2:] for one in sets.values()}
    if len(shapes) > 1 or next(iter(shapes))[0] != topology.n_beads:
        raise InvalidInputError(
            f"frames have beads and dimensions {sorted(shapes)}, the topology has "
            f"{topology.n_beads} beads; all sets must be of one molecule"
        )
    if next(iter(shapes))[1] == 2 and topology.n_beads > 1:
        raise InvalidInputError(
            f"frames of {topology.n_beads} beads in a plane cannot be compared; in two dimensions "
            "only a single bead can, such as that of Müller-Brown"
        )


def _with_basins(planes: Sequence[BasinPlane]) -> list[BasinPlane]:
    return [plane for plane in planes if plane.basins.n_basins > 1]


def _columns(
    groups: Sequence[ObservableGroup], frames: SampleSet
) -> dict[str, NDArray[np.float64]]:
    """Return the observables (frames, n) of every group, by its key."""
    return {g.key: g.values(frames.positions).reshape(-1, len(g.labels)) for g in groups}


def _set_summaries(
    sets: Mapping[str, SampleSet],
    slowness: Mapping[str, Slowness],
    groups: Sequence[ObservableGroup],
    planes: Sequence[BasinPlane],
    *,
    alpha: float,
    seed: int,
) -> dict[str, SetSummary]:
    """Return what there is to say about every set by itself; trajectories share the level."""
    with_time = max(1, sum(one.has_time for one in sets.values()))
    found = {}
    for name, one in sets.items():
        drift = drift_of(one, groups, [(name, plane) for plane in _with_basins(planes)], seed=seed)
        found[name] = SetSummary.of(name, one, slowness[name], drift, alpha=alpha / with_time)
    return found


def _observed(
    sets: Mapping[str, SampleSet],
    groups: Sequence[ObservableGroup],
    planes: Sequence[BasinPlane],
    about: Mapping[str, SetSummary],
) -> list[ObservedSet]:
    """Return what is compared of every set."""
    basins = {name: [plane.in_units[name] for plane in _with_basins(planes)] for name in sets}
    units = {name: one.in_units(one.positions) for name, one in sets.items()}
    histograms: dict[str, list[UnitHistograms]] = {name: [] for name in sets}
    for group in groups:
        for name, found in unit_histograms(group, units, basins).items():
            histograms[name] += found
    measured = measured_groups(groups)
    return [
        ObservedSet(
            name,
            histograms[name],
            basins[name],
            {group.key: group.values(units[name]) for group in measured},
            about[name].doubts,
        )
        for name in sets
    ]
