"""Everything that a report says, as numbers: any sets of samples of one molecule, compared."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from openmm_scoremd._files.plain_json import without_nan
from openmm_scoremd.analysis.comparison.features import BasinFrames, UnitHistograms, unit_histograms
from openmm_scoremd.analysis.comparison.pairs import PairResult, compare_pair
from openmm_scoremd.analysis.comparison.planes import BasinPlane, basin_planes
from openmm_scoremd.analysis.observables.groups import (
    ObservableGroup,
    coordinate_group,
    energy_group,
    molecular_groups,
)
from openmm_scoremd.analysis.statistics.grids import FloatArray
from openmm_scoremd.analysis.statistics.kinetics import (
    ImpliedTimescales,
    SlowCoordinates,
    implied_timescales,
    slow_coordinates,
    statistical_inefficiency,
)
from openmm_scoremd.analysis.statistics.samples import SampleSet
from openmm_scoremd.errors import InvalidInputError, MissingDependencyError
from openmm_scoremd.topology import BeadTopology

__all__ = ["SetSummary", "SlowPlane", "Summary", "Timescales", "summarise"]

#: Name of the set that all others are held against, if there is one of that name.
REFERENCE = "reference"

_MAX_COLUMNS = 24  # observables of a group whose correlation times are looked at


@dataclasses.dataclass(frozen=True)
class SetSummary:
    """How much a set can tell.

    Attributes
    ----------
    name : str
        Of the set.
    n_frames, n_replicas, n_segments : int
        Sizes; segments are stretches of time without a break.
    n_units, unit_kind : int, str
        Independent units that errors rest on.
    frame_interval : float or None
        ps.
    effective_frames : float
        Frames over the statistical inefficiency of the slowest observable.
    slowest : str
        That observable.
    """

    name: str
    n_frames: int
    n_replicas: int
    n_segments: int
    n_units: int
    unit_kind: str
    frame_interval: float | None
    effective_frames: float
    slowest: str


@dataclasses.dataclass(frozen=True)
class Timescales:
    """Implied time scales of the jumps between the basins of a plane, for one set."""

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
    """Components of all sets, found from the trajectories of one: ``(..., 2)`` values by set."""

    name: str
    coordinates: SlowCoordinates
    values: Mapping[str, FloatArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """Numbers of a report.

    Attributes
    ----------
    baseline : str
        Set that basins come from.
    sets : tuple of SetSummary
        In the order given.
    pairs : tuple of PairResult
        Every two sets.
    histograms : mapping of str to list of UnitHistograms
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
    """

    baseline: str
    sets: tuple[SetSummary, ...]
    pairs: tuple[PairResult, ...]
    histograms: Mapping[str, list[UnitHistograms]]
    groups: tuple[ObservableGroup, ...]
    planes: tuple[BasinPlane, ...]
    timescales: tuple[Timescales, ...]
    slow: SlowPlane | None
    notes: tuple[str, ...]

    @property
    def consistent(self) -> bool:
        """Whether no two sets contradict each other."""
        return all(pair.consistent for pair in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for NaN."""
        content = {
            "verdict": {
                "consistent": self.consistent,
                "inconsistent_pairs": [
                    [pair.first, pair.second] for pair in self.pairs if not pair.consistent
                ],
            },
            "sample_sets": [dataclasses.asdict(entry) for entry in self.sets],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "basins": [plane.to_dict() for plane in self.planes],
            "timescales": [entry.to_dict() for entry in self.timescales],
            "slow_coordinates": None if self.slow is None else {
                "from": self.slow.name, "lag_frames": self.slow.coordinates.lag,
            },
            "notes": list(self.notes),
        }  # fmt: skip
        plain: dict[str, Any] = without_nan(content)
        return plain

    def format_verdict(self) -> str:
        """Return a few lines of plain text: consistent or not, and where."""
        lines = []
        for pair in self.pairs:
            said = "consistent" if pair.consistent else "NOT consistent"
            lines.append(f"{pair.second} and {pair.first}: {said} ({_probability(pair.p_value)})")
            for found in one_per_observable(pair)[:3]:
                # Fractions as the table above has them.
                lines.append(
                    f"  {found.observable}, {found.region}: {found.second:.3f} of "
                    f"{pair.second}, {found.first:.3f} of {pair.first}"
                )
        return "\n".join(lines)


def summarise(
    sets: Mapping[str, SampleSet],
    topology: BeadTopology,
    *,
    energy: Callable[[FloatArray], FloatArray] | None = None,
    energy_frames: int = 500,
    level: float = 0.01,
    seed: int = 0,
) -> Summary:
    """Compare sets of samples with each other.

    Parameters
    ----------
    sets : mapping of str to SampleSet
        Two sets or more, in the order of the report. One called ``"reference"`` is the baseline,
        otherwise the first one is.
    topology : BeadTopology
        The beads of all sets.
    energy : callable, optional
        Maps frames (frames, beads, dimensions) in nm to energies (frames,) in kJ/mol.
    energy_frames : int
        Frames of each set that energies are computed of.
    level : float
        Probability of calling any two sets inconsistent though all have one distribution.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    Summary
        All numbers.

    Raises
    ------
    InvalidInputError
        If there are fewer than two sets, they are not of these beads, or the level is no
        probability.
    """
    _check(sets, topology, level)
    dimensions = next(iter(sets.values())).positions.shape[-1]
    groups = [coordinate_group()] if dimensions == 2 else molecular_groups(topology)
    sampled = [*groups]
    if energy is not None:
        sampled.append(energy_group(energy, max_frames=energy_frames))
    baseline = REFERENCE if REFERENCE in sets else next(iter(sets))
    histograms: dict[str, list[UnitHistograms]] = {name: [] for name in sets}
    units = {name: one.in_units(np.asarray(one.positions)) for name, one in sets.items()}
    planes = basin_planes(sets, groups, baseline=baseline)
    basins = _basin_frames(planes, sets)
    for group in sampled:
        for name, found in unit_histograms(group, units, basins).items():
            histograms[name] += found
    slow, notes = _slow_plane(sets, groups, baseline)
    pairs = [*itertools.combinations(_baseline_first(sets, baseline), 2)]
    return Summary(
        baseline=baseline,
        sets=tuple(_set_summary(name, one, groups) for name, one in sets.items()),
        pairs=tuple(
            compare_pair(
                pair,
                (histograms[pair[0]], histograms[pair[1]]),
                (basins[pair[0]], basins[pair[1]]),
                level=level / len(pairs),
                seed=seed,
            )
            for pair in pairs
        ),
        histograms=histograms,
        groups=tuple(sampled),
        planes=tuple(planes),
        timescales=_timescales(sets, planes, seed=seed),
        slow=slow,
        notes=notes,
    )


def one_per_observable(pair: PairResult) -> list[Any]:
    """Return the clearest discrepancy of each observable, the clearest observable first."""
    seen: dict[tuple[str, str], Any] = {}
    for found in pair.discrepancies:
        seen.setdefault((found.group, found.observable), found)
    return [*seen.values()]


def _probability(p_value: float) -> str:
    if math.isnan(p_value):
        return "nothing could be judged"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def _check(sets: Mapping[str, SampleSet], topology: BeadTopology, level: float) -> None:
    if len(sets) < 2:
        raise InvalidInputError(
            f"there {'is one set' if sets else 'are no sets'} of samples; a comparison needs two: "
            "add independent frames, a simulation or a reference"
        )
    if not 0.0 < level < 1.0:
        raise InvalidInputError(f"level is {level}; it must lie between 0 and 1")
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


def _baseline_first(sets: Mapping[str, SampleSet], baseline: str) -> list[str]:
    return [baseline, *(name for name in sets if name != baseline)]


def _basin_frames(
    planes: Sequence[BasinPlane], sets: Mapping[str, SampleSet]
) -> dict[str, list[BasinFrames]]:
    return {
        name: [
            BasinFrames(
                tuple(
                    f"basin {plane.basin_name(k)} of {plane.title}"
                    for k in range(plane.basins.n_basins)
                ),
                one.in_units(plane.states[name]),
            )
            for plane in planes
            if plane.basins.n_basins > 1
        ]
        for name, one in sets.items()
    }


def _set_summary(name: str, one: SampleSet, groups: Sequence[ObservableGroup]) -> SetSummary:
    slowest, largest = "", 0.0
    for group in groups:
        values = np.asarray(group.compute(np.asarray(one.positions)), dtype=np.float64)
        for k, label in enumerate(group.labels[:_MAX_COLUMNS]):
            column = values[..., k]
            # An angle is a direction: 179° and −179° are near each other.
            around = np.exp(1j * np.radians(column)) if group.period else column
            found = statistical_inefficiency(one.pieces(around))
            if found > largest:
                slowest, largest = label, found
    units, _ = one.unit_shape
    return SetSummary(
        name, one.n_frames, one.n_replicas, len(one.segments), units, one.unit_kind,
        one.frame_interval, one.n_frames / largest, slowest,
    )  # fmt: skip


def _timescales(
    sets: Mapping[str, SampleSet], planes: Sequence[BasinPlane], *, seed: int
) -> tuple[Timescales, ...]:
    found = []
    for plane in planes:
        if plane.basins.n_basins < 2:
            continue
        for name, one in sets.items():
            longest = max(last - first for _, first, last in one.segments)
            lags = [lag for lag in (1, 2, 5, 10, 20, 50, 100, 200, 500) if lag <= longest // 4]
            if one.has_time and lags:
                times = implied_timescales(
                    one.pieces(plane.states[name]),
                    [replica for replica, _, _ in one.segments],
                    n_states=plane.basins.n_basins,
                    lags=lags,
                    seed=seed,
                )
                found.append(Timescales(name, plane.title, one.frame_interval, times))
    return tuple(found)


def _slow_plane(
    sets: Mapping[str, SampleSet], groups: Sequence[ObservableGroup], baseline: str
) -> tuple[SlowPlane | None, tuple[str, ...]]:
    candidates = [name for name in sets if sets[name].has_time]
    if not candidates or groups[0].key == "coordinates":
        return None, ()
    group = groups[0] if groups[0].period else groups[-1]

    def features(one: SampleSet) -> FloatArray:
        values = np.asarray(group.compute(np.asarray(one.positions)), dtype=np.float64)
        if group.period is None:
            return values
        return np.concatenate([np.cos(np.radians(values)), np.sin(np.radians(values))], axis=-1)

    for name in candidates:
        one = sets[name]
        longest = max(last - first for _, first, last in one.segments)
        try:
            found = slow_coordinates(one.pieces(features(one)), lag=max(1, longest // 10))
        except MissingDependencyError as error:
            return None, (f"Slow coordinates (TICA) were left out: {error}.",)
        if found is not None:
            ordered = _baseline_first(sets, baseline)
            return SlowPlane(
                name, found, {n: found.project(features(sets[n])) for n in ordered}
            ), ()
    return None, ("Slow coordinates (TICA) were left out: the trajectories are too short.",)
