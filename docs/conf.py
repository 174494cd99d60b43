"""How Sphinx makes the documentation's site of these pages.

::

    python -m sphinx --fail-on-warning docs build/site
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
# the pages tell of the source beside them, whatever is installed
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

import napari_point_defects  # noqa: E402

project = "napari-point-defects"
author = "The napari-point-defects developers"
release = napari_point_defects.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "generated_reference",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["images"]

html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# [text](page.md#a-heading) works as it does in a code host's view of the page
myst_heading_anchors = 3

# the docstrings' own sections give types, with shapes and units
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
numpydoc_show_class_members = False
autosummary_generate = False  # numpydoc loads it, and every page here is written
toc_object_entries_show_parents = "hide"
