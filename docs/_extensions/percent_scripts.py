"""Reads Python scripts in percent format (``# %%`` cells) as pages: text cells, and code.

Jupytext turns a script into Markdown and MyST does the rest. Nothing is executed: the tests run the
scripts (``tests/integration/test_tutorials.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import jupytext
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


class PercentParser(MystParser):
    """Parser of scripts; each page says below its title which file it is and how to run it."""

    supported: ClassVar[tuple[str, ...]] = ("percent",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the text of a script."""
        script = Path(document["source"])
        super().parse(page_of(inputstring, script), document)


def page_of(text: str, script: Path) -> str:
    """Return the text of a script as Markdown.

    Raises
    ------
    ValueError
        If the script does not begin with a title.
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    # Otherwise a header with the versions of Jupytext comes first.
    notebook.metadata = {"jupytext": {"notebook_metadata_filter": "-all"}}
    title, newline, rest = jupytext.writes(notebook, fmt="md").partition("\n")
    if not title.startswith("# "):
        raise ValueError(f"{script} must begin with a text cell that begins with a title")
    path = f"docs/tutorials/{script.name}"
    note = f"*This page is the script {{download}}`{script.name}`. Run it with* `python {path}`."
    return f"{title}\n\n{note}\n{newline}{rest}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parser."""
    app.add_source_parser(PercentParser)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
