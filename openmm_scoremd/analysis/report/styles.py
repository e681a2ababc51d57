"""Colours and line styles of named sets, scales of colours, and texts in pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from openmm_scoremd.analysis.observables.free_energy import FreeEnergySurface

#: Solid, or an offset and the lengths of lines and gaps.
LineStyle: TypeAlias = Literal["-"] | tuple[float, tuple[int, ...]]

# Okabe and Ito's colours, told apart by all common kinds of colour vision; the line styles tell
# the sets apart in grey print.
_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ((), (), (5, 2), (5, 2, 1, 2), (1, 2), (5, 1, 1, 1, 1, 1), (8, 2))
_MAX_COLUMNS = 3
# Pale, so that numbers can be read on them; told apart in grey by their outlines.
BASIN_COLORS = ("#cfe2f3", "#fce0c4", "#d5ead3", "#f4d6e6", "#fff2b3", "#d9d2e9", "#dddddd")


class Style(NamedTuple):
    """How one set is drawn."""

    color: str
    line: LineStyle

    @property
    def dashes(self) -> str:
        """The line style as SVG has it."""
        return "" if self.line == "-" else " ".join(map(str, self.line[1]))


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each different name, in order of appearance; after seven they repeat."""
    lines: list[LineStyle] = [(0.0, dashes) if dashes else "-" for dashes in _DASHES]
    return {
        name: Style(_COLORS[i % len(_COLORS)], lines[i % len(lines)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def highest_of(surfaces: Mapping[str, FreeEnergySurface]) -> float:
    """Return the end of a colour scale in kT that holds all surfaces."""
    finite = [s.values[np.isfinite(s.values)].max() for s in surfaces.values()]
    return float(max(finite, default=0.0)) or 1.0


def plain_text(text: str) -> str:
    """Return text that matplotlib takes as it is: names of beads are no formulas."""
    return text.replace("$", r"\$")


def columns_of(n: int) -> int:
    """Return how many columns of panels fill as few rows as possible about evenly."""
    return -(-n // -(-n // _MAX_COLUMNS))
