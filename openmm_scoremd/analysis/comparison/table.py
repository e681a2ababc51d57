"""What a comparison found, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from openmm_scoremd.analysis.statistics.uncertainty import Estimate, NoiseFloor
from openmm_scoremd.errors import InvalidInputError

__all__ = ["Comparison", "MetricResult", "PopulationResult", "SampleSetResult"]


@dataclasses.dataclass(frozen=True)
class MetricResult:
    """One metric of one set of samples.

    Attributes
    ----------
    key : str
        Name for programs, e.g. ``"js_divergence"``.
    label : str
        Name for people.
    unit : str
        Unit of all numbers; empty for pure numbers.
    estimate : Estimate
        Metric of all frames and its bootstrap error.
    floor : NoiseFloor
        The same metric between reference frames.
    at_floor_size : float
        The metric at the sizes of the floor; the estimate itself where these are the full sizes.
    """

    key: str
    label: str
    unit: str
    estimate: Estimate
    floor: NoiseFloor
    at_floor_size: float

    @property
    def ratio(self) -> float:
        """Metric over noise floor, both at the floor's sizes; NaN if the floor is zero."""
        return self.at_floor_size / self.floor.mean if self.floor.mean > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class PopulationResult:
    """Fraction of frames in a basin, in the samples and in the reference."""

    key: str
    label: str
    estimate: Estimate
    reference: Estimate

    @property
    def ratio(self) -> float:
        """Fraction over that of the reference; NaN if the reference never visits the basin."""
        if self.reference.value == 0:
            return math.nan
        return self.estimate.value / self.reference.value


@dataclasses.dataclass(frozen=True)
class SampleSetResult:
    """All numbers of one set of samples.

    Attributes
    ----------
    name : str
        Name given by the caller.
    n_frames : int
        Frames used.
    n_units : int
        Independent units that errors rest on: frames, replicas or blocks.
    unit_kind : str
        ``"frames"``, ``"replicas"`` or ``"blocks"``.
    metrics : tuple of MetricResult
        Distances from the reference.
    populations : tuple of PopulationResult
        Basin populations.
    """

    name: str
    n_frames: int
    n_units: int
    unit_kind: str
    metrics: tuple[MetricResult, ...]
    populations: tuple[PopulationResult, ...]

    def metric(self, key: str) -> MetricResult:
        """Return the first metric of that key.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        for result in self.metrics:
            if result.key == key:
                return result
        known = ", ".join(result.key for result in self.metrics)
        raise InvalidInputError(f"there is no metric {key!r}; there are {known}")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Sets of samples compared with one reference.

    Attributes
    ----------
    n_reference : int
        Reference frames that the samples are compared with.
    n_pool : int
        Reference frames that the noise floor is drawn from.
    sets : tuple of SampleSetResult
        One entry per set, in the order given.
    """

    n_reference: int
    n_pool: int
    sets: tuple[SampleSetResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers for JSON; a ratio by zero is None."""
        content = dataclasses.asdict(self)
        for plain, result in zip(content["sets"], self.sets, strict=True):
            for kind in ("metrics", "populations"):
                for entry, source in zip(plain[kind], getattr(result, kind), strict=True):
                    entry["ratio"] = None if math.isnan(source.ratio) else source.ratio
        return content

    def format_table(self) -> str:
        """Return a plain-text table, at most 80 columns wide unless labels are very long."""
        rows = [row for result in self.sets for row in _rows(result, self.n_reference)]
        width = max(20, *(len(row[0]) for row in rows if len(row) > 1))
        head = f"{'':<{width}}{'value':>19}{'noise floor':>19}{'ratio':>7}"
        return "\n".join([head, *(_line(row, width) for row in rows), "", *_FOOTNOTES]) + "\n"


_FOOTNOTES = (
    "value        metric with its bootstrap error; P: fraction of frames",
    "noise floor  the metric between two sets of independent reference frames: mean",
    "             and scatter of a single comparison; P: fraction in the reference",
    "ratio        value / noise floor at the same numbers of frames. Frames of a",
    "             simulation are correlated: a perfect one still lies above 1",
)
# Display unit and factor, where the unit of the result makes unreadable numbers.
_DISPLAY = {"nm": ("pm", 1000.0)}


def _rows(result: SampleSetResult, n_reference: int) -> list[tuple[str, ...]]:
    """Return rows of four cells, and headings of one."""
    rows: list[tuple[str, ...]] = [("",), (_heading(result, n_reference),)]
    for metric in result.metrics:
        rows += _metric_rows(metric, full=(n_reference, result.n_frames))
    for entry in result.populations:
        value, reference = entry.estimate, entry.reference
        rows.append(
            (
                f"  {entry.label}",
                _with_error(value.value, value.error),
                _with_error(reference.value, reference.error),
                _ratio(entry.ratio),
            )
        )
    return rows


def _metric_rows(metric: MetricResult, *, full: tuple[int, int]) -> list[tuple[str, ...]]:
    unit, factor = _DISPLAY.get(metric.unit, (metric.unit, 1.0))
    label = f"  {metric.label} ({unit})" if unit else f"  {metric.label}"
    value = _with_error(factor * metric.estimate.value, factor * metric.estimate.error)
    floor = _with_error(factor * metric.floor.mean, factor * metric.floor.spread)
    sizes = (metric.floor.n_reference, metric.floor.n_samples)
    if sizes == full:
        return [(label, value, floor, _ratio(metric.ratio))]
    reduced = f"    {sizes[1]:,} frames against {sizes[0]:,}"
    return [
        (label, value, "", ""),
        (reduced, f"{factor * metric.at_floor_size:.4g}", floor, _ratio(metric.ratio)),
    ]


def _heading(result: SampleSetResult, n_reference: int) -> str:
    units = "" if result.unit_kind == "frames" else f" in {result.n_units} {result.unit_kind}"
    return f"{result.name}: {result.n_frames:,} frames{units}, against {n_reference:,} of reference"


def _line(row: tuple[str, ...], width: int) -> str:
    if len(row) == 1:
        return row[0]
    label, value, floor, ratio = row
    return f"{label:<{width}}{value:>19}{floor:>19}{ratio:>7}".rstrip()


def _with_error(value: float, error: float) -> str:
    """Return both numbers with as many decimals as the error has two significant digits."""
    if error <= 0:
        return f"{value:.4g} ± 0"
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
