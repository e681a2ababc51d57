"""Links to files of the repository outside ``docs``: what works on GitHub works on the pages.

Such a file is offered for download, but for those that are a page here. Without this, MyST takes
``../examples/script.py`` for a page that is missing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

#: Files outside ``docs`` that a page includes.
PAGES = {"torchscript_models/README.md": "models.md"}

_LINK = re.compile(r"\]\((\.\./[^)#\s]+)\)")


def rewritten(text: str, *, page: Path, docs: Path) -> str:
    """Return the text of a page with links to files outside the folder ``docs`` changed."""

    def link(match: re.Match[str]) -> str:
        file = Path(os.path.normpath(page.parent / match[1]))
        if file.is_relative_to(docs) or not file.is_file():
            return match[0]
        if name := PAGES.get(file.relative_to(docs.parent).as_posix()):
            return f"]({os.path.relpath(docs / name, page.parent)})"
        return f"](path:{match[1]})"

    return _LINK.sub(link, text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = rewritten(source[0], page=Path(app.env.doc2path(name)), docs=Path(app.srcdir))


def setup(app: Sphinx) -> dict[str, Any]:
    """Change links as pages are read."""
    app.connect("source-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
