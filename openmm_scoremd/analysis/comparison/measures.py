"""What is measured of two sets as a whole: Ramachandran planes, bonds, coordinates.

Like for like: a histogram metric depends on the number of frames of both sides, so every metric has
the noise floor of its own sizes beside it. Where the pool of reference frames is too small for
that, floor and metric are both taken at the largest sizes that fit, and their ratio is that of
these two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

from openmm_scoremd.analysis.comparison.metrics import (
    basin_population,
    bond_length_wasserstein,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.analysis.observables.groups import ObservableGroup, plane_title
from openmm_scoremd.analysis.statistics.grids import AxisLimits, FloatArray, limits_of
from openmm_scoremd.analysis.statistics.uncertainty import (
    Estimate,
    Metric,
    NoiseFloor,
    Resampling,
    against_floor,
    bootstrap,
)

__all__ = ["Measure", "measured", "measured_groups", "measures_of"]

_DIHEDRALS: AxisLimits = ((-180.0, 180.0), (-180.0, 180.0))
_POSITIVE: AxisLimits = ((0.0, 180.0),)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric, or a box whose population is compared, and the columns that it is applied to.

    Attributes
    ----------
    group : ObservableGroup
        What the columns are taken from.
    key, label, unit : str
        As in :class:`~openmm_scoremd.analysis.comparison.table.Row`.
    columns : slice
        Of the observables of the group.
    what : callable, or sequence of (float, float)
        The metric, a function of (reference, samples), or the limits of the box.
    plane : str
        Title of the plane of the observables, if they are one.
    """

    group: ObservableGroup
    key: str
    label: str
    unit: str
    columns: slice
    what: Metric | AxisLimits
    plane: str = ""

    @property
    def kind(self) -> Literal["metric", "population"]:
        """Which of the two it is."""
        return "metric" if callable(self.what) else "population"

    @property
    def observables(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.group.labels[self.columns]


def measured_groups(groups: Sequence[ObservableGroup]) -> list[ObservableGroup]:
    """Return the groups that are measured as a whole: backbone and bonds, or what there is."""
    found = [group for group in groups if group.key in ("coordinates", "backbone", "bonds")]
    return found or [group for group in groups if group.key == "distances"]


def measures_of(groups: Sequence[ObservableGroup], pool: Mapping[str, FloatArray]) -> list[Measure]:
    """Return what is measured: distances first, then populations.

    Jensen-Shannon divergence and PMF error of every plane of phi and psi, or of coordinates within
    the range of the pool, with the paper's numbers of bins; the population of phi > 0; the
    Wasserstein-1 distance of bonds or, where there are none, of pair distances.

    Parameters
    ----------
    groups : sequence of ObservableGroup
        See :func:`measured_groups`.
    pool : mapping of str to (frames, columns) ndarray
        Observables of reference frames, by group.
    """
    found = []
    for group in groups:
        if group.key == "coordinates":
            limits = limits_of(pool[group.key], margin=0.1)
            found += _of_plane(group, "", 0, limits, bins=100)
        elif group.key == "backbone":
            for k in range(0, len(group.labels), 2):
                suffix = f" {plane_title(group, k)}" if len(group.labels) > 2 else ""
                found += _of_plane(group, f" φ/ψ{suffix}", k, _DIHEDRALS, bins=64)
                found.append(
                    Measure(
                        group, "positive_phi", f"P(φ > 0){suffix}", "", slice(k, k + 1), _POSITIVE,
                        plane_title(group, k),
                    )
                )  # fmt: skip
        else:
            # Without the radius of gyration, which is no distance of a pair.
            name, end = ("bond", None) if group.key == "bonds" else ("distance", -1)
            found.append(
                Measure(
                    group, f"{name}_wasserstein", f"{name} W1", group.unit, slice(end), _wasserstein
                )
            )
    return sorted(found, key=lambda measure: measure.kind)


def measured(
    measure: Measure, values: tuple[FloatArray, FloatArray], pool: FloatArray, options: Resampling
) -> tuple[Estimate, NoiseFloor, float]:
    """Measure two sets.

    Parameters
    ----------
    measure : Measure
        What to compute.
    values : two (units, frames, columns) ndarray
        Observables of the group of both sets.
    pool : (frames, columns) ndarray
        Those of independent reference frames, from which noise floors are drawn.
    options : Resampling
        Numbers of resamples, seed.

    Returns
    -------
    Estimate, NoiseFloor, float
        See :class:`~openmm_scoremd.analysis.comparison.table.Row`.
    """
    reference, samples = (side[..., measure.columns] for side in values)
    what = measure.what
    if not callable(what):
        first, second = (basin_population(side, limits=what) for side in (reference, samples))
        sizes = reference[..., 0].size, samples[..., 0].size
        return second, NoiseFloor(first.value, first.error, *sizes), second.value
    value = bootstrap(
        functools.partial(what, reference), samples,
        n_resamples=options.n_resamples, seed=options.seed,
    )  # fmt: skip
    return value, *against_floor(what, reference, samples, pool[:, measure.columns], options)


def _of_plane(
    group: ObservableGroup, suffix: str, first: int, limits: AxisLimits, *, bins: int
) -> list[Measure]:
    return [
        Measure(
            group, key, f"{label}{suffix}", unit, slice(first, first + 2),
            functools.partial(metric, bins=bins, limits=limits), plane_title(group, first),
        )
        for key, label, unit, metric in (
            ("js_divergence", "JS" if suffix else "JS divergence", "", js_divergence),
            ("pmf_error", "PMF error", "kT²", pmf_error),
        )
    ]  # fmt: skip


def _wasserstein(reference: FloatArray, samples: FloatArray) -> float:
    return bond_length_wasserstein(reference, samples).mean
