"""Colours and line styles of named sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

_Line: TypeAlias = Literal["-", "--", "-.", ":"] | tuple[float, tuple[int, ...]]

# Okabe and Ito's colours, told apart by all common kinds of colour vision; the line styles tell
# the sets apart in grey print.
_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LINES: tuple[_Line, ...] = ("-", "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))


class Style(NamedTuple):
    """How one set is drawn."""

    color: str
    line: _Line


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each different name, in order of appearance; after seven they repeat."""
    return {
        name: Style(_COLORS[i % len(_COLORS)], _LINES[i % len(_LINES)])
        for i, name in enumerate(dict.fromkeys(names))
    }
