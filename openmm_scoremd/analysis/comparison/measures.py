"""Sets of samples compared with a reference: metrics, errors, noise floors, one table.

Like for like: a histogram metric depends on the number of frames of both sides, so every metric has
the noise floor of its own sizes beside it. Where the reference holds too few frames for that, floor
and metric are both taken at the largest sizes that fit, and their ratio is that of these two.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from openmm_scoremd.analysis.comparison.metrics import (
    DIHEDRAL_LIMITS,
    MUELLER_BROWN_LIMITS,
    POSITIVE_PHI,
    basin_population,
    bond_length_wasserstein,
    js_divergence,
    pmf_error,
)
from openmm_scoremd.analysis.comparison.table import (
    Comparison,
    MetricResult,
    PopulationResult,
    SampleSetResult,
)
from openmm_scoremd.analysis.observables.internal_coordinates import (
    bond_lengths,
    phi_psi,
    phi_psi_labels,
)
from openmm_scoremd.analysis.statistics.grids import (
    AxisLimits,
    CombinedRange,
    FloatArray,
    checked_array,
)
from openmm_scoremd.analysis.statistics.uncertainty import (
    Metric,
    Resampling,
    bootstrap,
    floor_sizes,
    metric_at_size,
    noise_floor,
    split_blocks,
)
from openmm_scoremd.errors import InvalidInputError
from openmm_scoremd.geometry import distances
from openmm_scoremd.topology import BeadTopology

__all__ = [
    "Comparison",
    "MetricResult",
    "PopulationResult",
    "SampleSetResult",
    "compare_coordinates",
    "compare_with_reference",
]

_Observables: TypeAlias = Mapping[str, FloatArray]  # name to (frames or units, ..., values)

#: With fewer replicas than this, each is cut into blocks so that errors rest on at least as many.
MIN_UNITS = 10


@dataclasses.dataclass(frozen=True)
class _Measure:
    """A metric and the observable it is applied to."""

    key: str
    label: str
    unit: str
    observable: str
    compute: Metric


@dataclasses.dataclass(frozen=True)
class _Basin:
    """A box and the observable it lies in."""

    key: str
    label: str
    observable: str
    limits: AxisLimits


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is measured and what it is compared with."""

    measures: tuple[_Measure, ...]
    basins: tuple[_Basin, ...]
    reference: _Observables
    pool: _Observables
    resampling: Resampling


def compare_with_reference(
    reference_positions: ArrayLike,
    samples: Mapping[str, ArrayLike],
    topology: BeadTopology,
    *,
    floor_positions: ArrayLike | None = None,
    bins: int = 64,
    resampling: Resampling | None = None,
) -> Comparison:
    """Compare molecules with reference frames.

    Measures, per phi/psi pair of the backbone, Jensen-Shannon divergence and PMF error on [−π, π]²
    and the population of φ > 0, and the Wasserstein-1 distance of bond lengths; what the topology
    does not have is left out. If it has neither, distances of all pairs take their place.

    Parameters
    ----------
    reference_positions : (frames, beads, 3) array_like
        Independent reference frames in nm, best such that no training has seen.
    samples : mapping of str to array_like
        Per name, ``(frames, beads, 3)`` for independent frames or ``(replicas, frames, beads, 3)``
        for simulations, in nm. Errors resample frames, or replicas (cut into blocks in time where
        there are fewer than ten).
    topology : BeadTopology
        The beads.
    floor_positions : (frames, beads, 3) array_like, optional
        Reference frames that noise floors are drawn from, best as many as reference and samples
        together; the training frames may be among them. Default: ``reference_positions``.
    bins : int
        Bins per axis for phi/psi.
    resampling : Resampling, optional
        Numbers of resamples, frames kept, seed.

    Returns
    -------
    Comparison
        Metrics, errors, noise floors, populations.

    Raises
    ------
    InvalidInputError
        If there are no samples, or frames are empty, not finite or of another number of beads.
    """

    def observe(positions: FloatArray) -> _Observables:
        return _molecular_observables(positions, topology)

    options = resampling or Resampling()
    labels = phi_psi_labels(topology)
    measures = _molecular_measures(topology, labels, bins=bins)
    basins = tuple(
        _Basin("positive_phi", f"P(φ > 0){suffix}", f"phi_psi {i}", POSITIVE_PHI)
        for i, suffix in enumerate(_suffixes(labels))
    )
    pool = reference_positions if floor_positions is None else floor_positions
    return _compare(
        _Plan(
            measures,
            basins,
            observe(_frames_only(reference_positions, trailing=2)),
            observe(_frames_only(pool, trailing=2)),
            options,
        ),
        {name: observe(_thinned(v, name, options, trailing=2)) for name, v in samples.items()},
    )


def compare_coordinates(
    reference: ArrayLike,
    samples: Mapping[str, ArrayLike],
    *,
    floor_reference: ArrayLike | None = None,
    bins: int = 100,
    limits: AxisLimits = MUELLER_BROWN_LIMITS,
    js_edges: AxisLimits | CombinedRange | None = None,
    resampling: Resampling | None = None,
) -> Comparison:
    """Compare the coordinates themselves, for toy systems such as Müller-Brown.

    Parameters
    ----------
    reference : (frames, dimensions) array_like
        Independent reference frames.
    samples : mapping of str to array_like
        Per name, ``(frames, dimensions)`` for independent frames or
        ``(replicas, frames, dimensions)`` for simulations.
    floor_reference : (frames, dimensions) array_like, optional
        Reference frames that noise floors are drawn from. Default: ``reference``.
    bins : int
        Bins per axis.
    limits : sequence of (float, float)
        Range of each axis.
    js_edges : limits or CombinedRange, optional
        Other edges for the Jensen-Shannon divergence, such as
        :data:`~openmm_scoremd.analysis.comparison.metrics.COMBINED_RANGE` for the public
        code's definition.
    resampling : Resampling, optional
        Numbers of resamples, frames kept, seed.

    Returns
    -------
    Comparison
        Metrics, errors and noise floors.

    Raises
    ------
    InvalidInputError
        If there are no samples, frames are empty or not finite, or their dimension differs.
    """

    def divergence(left: FloatArray, right: FloatArray) -> float:
        return js_divergence(
            left, right, bins=bins, limits=limits if js_edges is None else js_edges
        )

    def error(left: FloatArray, right: FloatArray) -> float:
        return pmf_error(left, right, bins=bins, limits=limits)

    measures = (
        _Measure("js_divergence", "JS divergence", "", "coordinates", divergence),
        _Measure("pmf_error", "PMF error", "kT²", "coordinates", error),
    )
    options = resampling or Resampling()
    pool = reference if floor_reference is None else floor_reference
    return _compare(
        _Plan(
            measures,
            (),
            {"coordinates": _frames_only(reference, trailing=1)},
            {"coordinates": _frames_only(pool, trailing=1)},
            options,
        ),
        {n: {"coordinates": _thinned(v, n, options, trailing=1)} for n, v in samples.items()},
    )


def _compare(plan: _Plan, samples: Mapping[str, _Observables]) -> Comparison:
    if not samples:
        raise InvalidInputError("there are no samples; give at least one named set")
    return Comparison(
        n_reference=_n_frames(plan.reference),
        n_pool=_n_frames(plan.pool),
        sets=tuple(_result_of_set(plan, name, observed) for name, observed in samples.items()),
    )


def _result_of_set(plan: _Plan, name: str, observed: _Observables) -> SampleSetResult:
    units = {key: _in_units(values) for key, values in observed.items()}
    before, after = next(iter(observed.values())), next(iter(units.values()))
    return SampleSetResult(
        name=name,
        n_frames=_n_frames(units),
        n_units=len(after),
        unit_kind=_unit_kind(before, after),
        metrics=tuple(_measure(plan, measure, units) for measure in plan.measures),
        populations=tuple(_populate(plan, basin, units) for basin in plan.basins),
    )


def _measure(plan: _Plan, measure: _Measure, units: _Observables) -> MetricResult:
    resampling = plan.resampling
    reference, samples = plan.reference[measure.observable], units[measure.observable]
    pool = plan.pool[measure.observable]
    n_reference, n_samples = floor_sizes(
        len(pool), n_reference=len(reference), n_samples=_pooled_length(samples)
    )
    options = {
        "n_reference": n_reference,
        "n_samples": n_samples,
        "n_repeats": resampling.n_repeats,
        "seed": resampling.seed,
    }
    return MetricResult(
        key=measure.key,
        label=measure.label,
        unit=measure.unit,
        estimate=bootstrap(
            lambda values: measure.compute(reference, values),
            samples,
            n_resamples=resampling.n_resamples,
            seed=resampling.seed,
        ),
        floor=noise_floor(measure.compute, pool, **options),
        at_floor_size=metric_at_size(measure.compute, reference, samples, **options),
    )


def _populate(plan: _Plan, basin: _Basin, units: _Observables) -> PopulationResult:
    return PopulationResult(
        key=basin.key,
        label=basin.label,
        estimate=basin_population(units[basin.observable], limits=basin.limits),
        reference=basin_population(plan.reference[basin.observable], limits=basin.limits),
    )


def _molecular_observables(positions: FloatArray, topology: BeadTopology) -> _Observables:
    observables = {}
    if phi_psi_labels(topology):
        pairs = phi_psi(positions, topology)  # (..., pairs, 2)
        observables = {f"phi_psi {i}": pairs[..., i, :] for i in range(pairs.shape[-2])}
    if topology.bonds:
        observables["bonds"] = bond_lengths(positions, topology)
    if not observables:
        pairs = np.array(list(itertools.combinations(range(topology.n_beads), 2)))
        observables["distances"] = np.asarray(distances(positions, pairs), dtype=np.float64)
    return observables


def _molecular_measures(
    topology: BeadTopology, labels: tuple[str, ...], *, bins: int
) -> tuple[_Measure, ...]:
    def divergence(left: FloatArray, right: FloatArray) -> float:
        return js_divergence(left, right, bins=bins, limits=DIHEDRAL_LIMITS)

    def error(left: FloatArray, right: FloatArray) -> float:
        return pmf_error(left, right, bins=bins, limits=DIHEDRAL_LIMITS)

    def wasserstein(left: FloatArray, right: FloatArray) -> float:
        return bond_length_wasserstein(left, right).mean

    measures = []
    for i, suffix in enumerate(_suffixes(labels)):
        planes = f"phi_psi {i}"
        measures.append(_Measure("js_divergence", f"JS φ/ψ{suffix}", "", planes, divergence))
        measures.append(_Measure("pmf_error", f"PMF error φ/ψ{suffix}", "kT²", planes, error))
    if topology.bonds:
        measures.append(_Measure("bond_wasserstein", "bond W1", "nm", "bonds", wasserstein))
    if not measures:
        measures.append(
            _Measure("distance_wasserstein", "distance W1", "nm", "distances", wasserstein)
        )
    return tuple(measures)


def _suffixes(labels: tuple[str, ...]) -> tuple[str, ...]:
    return ("",) if len(labels) == 1 else tuple(f" {label}" for label in labels)


def _frames_only(values: ArrayLike, *, trailing: int) -> FloatArray:
    frames = checked_array(values, "reference", trailing=trailing)
    if frames.ndim != trailing + 1:
        raise InvalidInputError(
            f"the reference has shape {frames.shape}; its frames must be independent and lie on "
            "one axis. Pool replicas whose frames are far enough apart first"
        )
    return frames


def _thinned(values: ArrayLike, name: str, resampling: Resampling, *, trailing: int) -> FloatArray:
    """Return at most ``max_frames`` frames, evenly spaced along every replica."""
    frames = checked_array(values, name, trailing=trailing)
    axis = frames.ndim - trailing - 1
    replicas, length = (frames.shape[0] if axis else 1), frames.shape[axis]
    if resampling.max_frames is None or resampling.max_frames >= replicas * length:
        return frames
    kept = max(1, resampling.max_frames // replicas)
    return np.asarray(np.take(frames, np.arange(kept) * length // kept, axis=axis))


def _in_units(values: FloatArray) -> FloatArray:
    """Return what the bootstrap resamples on the first axis: frames, replicas or blocks."""
    if values.ndim == 2:
        return values
    n_blocks = -(-MIN_UNITS // len(values))
    return split_blocks(values, n_blocks=min(n_blocks, values.shape[1]))


def _unit_kind(before: FloatArray, after: FloatArray) -> str:
    if before.ndim == 2:
        return "frames"
    return "replicas" if len(before) == len(after) else "blocks"


def _n_frames(observed: _Observables) -> int:
    return _pooled_length(next(iter(observed.values())))


def _pooled_length(values: FloatArray) -> int:
    return math.prod(values.shape[:-1])
