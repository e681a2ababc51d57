"""Colours and line styles of named sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

#: Solid, or an offset and the lengths of lines and gaps.
LineStyle: TypeAlias = Literal["-"] | tuple[float, tuple[int, ...]]

# Okabe and Ito's colours, told apart by all common kinds of colour vision; the line styles tell
# the sets apart in grey print.
_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ((), (), (5, 2), (5, 2, 1, 2), (1, 2), (5, 1, 1, 1, 1, 1), (8, 2))


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
