"""Formulas as MathML, which browsers draw themselves: no scripts, and none from other hosts."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# The names of functions get no space from browsers.
_NAMES = re.compile(r"(<mi>(?:log|exp|sin|cos|max|min)</mi>|<mo>div</mo>)(?!<mo [^>]*>&#x00028;)")


def _converted(tex: str, display: str) -> str:
    return _NAMES.sub(r'\1<mspace width="0.17em"/>', convert(tex.strip(), display=display))


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_converted(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    formula = _converted(node.astext(), "block")
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
