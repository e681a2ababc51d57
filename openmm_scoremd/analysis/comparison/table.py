"""The one table that verdict, terminal and page share: its rows, and numbers as text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from openmm_scoremd.analysis.statistics.uncertainty import Estimate, NoiseFloor

__all__ = ["HEAD", "Cells", "Row", "number", "p_value_text", "percent", "text_table"]

#: A line of the table: label, value, noise floor, ratio, p-value.
Cells = tuple[str, str, str, str, str]
HEAD: Cells = ("", "value", "noise floor", "ratio", "p")

# Display unit and factor, where the unit of the result makes unreadable numbers.
_DISPLAY = {"nm": ("pm", 1000.0)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of two sets of samples.

    Attributes
    ----------
    group : str
        Key of the group of observables that it is made from.
    key : str
        Name for programs, e.g. ``"js_divergence"``.
    label, unit : str
        Name for people; unit of all numbers, empty for pure ones.
    kind : {"metric", "population"}
        A distance between the sets, or the fraction of the second set's frames in a state.
    value : Estimate
        The metric (or fraction) of all frames and its bootstrap error.
    floor : NoiseFloor
        What the metric is between sets of one distribution; of a population, the fraction in the
        first set and its error.
    at_floor_size : float
        The metric at the sizes of the floor; the value itself where these are the full sizes.
    p_value : float
        Of the clearest region of these observables, corrected for the number of all regions.
    visible : float
        Power: the difference in the fraction of frames in a region of these observables that
        would have been noticed with a probability of 80 %, median over regions.
    """

    group: str
    key: str
    label: str
    unit: str
    kind: Literal["metric", "population"]
    value: Estimate
    floor: NoiseFloor
    at_floor_size: float
    p_value: float
    visible: float

    @property
    def ratio(self) -> float:
        """Value over floor, both at the floor's sizes; NaN if the floor is zero."""
        return self.at_floor_size / self.floor.mean if self.floor.mean > 0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "ratio": self.ratio}

    @property
    def cells(self) -> Cells:
        """The row as text, if the floor is taken at the full numbers of frames."""
        return self.lines((self.floor.n_reference, self.floor.n_samples))[0]

    def lines(self, full: tuple[int, int]) -> list[Cells]:
        """Return the row as text.

        Where the floor is taken at smaller numbers of frames than the ``full`` ones, a second line
        says at which, and has the ratio.
        """
        unit, factor = _DISPLAY.get(self.unit, (self.unit, 1.0))
        if self.group == "coordinates":  # of a toy system: of the size that its maker liked
            unit, factor = self.unit, 1.0
        label = f"{self.label} ({unit})" if unit else self.label
        value = number(factor * self.value.value, factor * self.value.error)
        floor = number(factor * self.floor.mean, factor * self.floor.spread)
        ratio = "–" if math.isnan(self.ratio) else f"{self.ratio:.2f}"
        p_value = p_value_text(self.p_value)
        sizes = (self.floor.n_reference, self.floor.n_samples)
        if sizes == full:
            return [(label, value, floor, ratio, p_value)]
        reduced = f"  {sizes[1]:,} frames against {sizes[0]:,}"
        at_size = number(factor * self.at_floor_size, factor * self.floor.spread, with_error=False)
        return [(label, value, "", "", p_value), (reduced, at_size, floor, ratio, "")]


def number(value: float, error: float, *, with_error: bool = True) -> str:
    """Return a number with as many decimals as its error has two digits, and that error."""
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error > 0.0):
        return f"{value:.4g}".replace("-", "−")
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    text = f"{value:.{decimals}f}".replace("-", "−")
    return f"{text} ± {error:.{decimals}f}" if with_error else text


def p_value_text(p_value: float) -> str:
    """Return a p-value as text; a dash for NaN."""
    if math.isnan(p_value):
        return "–"
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def percent(fraction: float) -> str:
    """Return a fraction as text; a dash for NaN."""
    return "–" if math.isnan(fraction) else f"{100.0 * fraction:.3g} %"


def text_table(blocks: Iterable[tuple[str, Sequence[Cells]]]) -> str:
    """Return blocks of lines below their headings, columns two spaces apart."""
    entries = [*blocks]
    lines = [HEAD, *(line for _, block in entries for line in block)]
    widths = [max(len(line[k]) for line in lines) for k in range(5)]

    def joined(cells: Cells) -> str:
        label, *rest = cells
        numbers = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        return "  ".join([f"{label:<{widths[0]}}", *numbers]).rstrip()

    parts = [joined(HEAD)]
    for heading, block in entries:
        parts += ["", heading, *map(joined, block)]
    return "\n".join(parts)
