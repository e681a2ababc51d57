"""How Sphinx makes web pages of this folder: ``make docs``.

The pages are read on GitHub, too, so they are plain Markdown with relative links. What could go
stale is made at build time: tables of options and settings from the parsers and dataclasses, the
reference of the Python interface from docstrings, tutorials from the scripts that the tests run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import openmm_scoremd

project = "openmm_scoremd"
author = "openmm_scoremd developers"
copyright = author  # noqa: A001 the option's name
version = release = openmm_scoremd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    # Ours, in docs/_extensions.
    "percent_scripts",
    "option_tables",
    "mathml",
    "repository_links",
]
exclude_patterns = ["conf.py", "_extensions"]
source_suffix = {".md": "markdown", ".py": "percent"}

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# Type hints are in the NumPy docstrings, with shapes and units.
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# Napoleon makes a reference of every attribute's name, and several classes have an `n_frames`.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"openmm_scoremd {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
