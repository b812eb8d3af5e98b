"""The documentation as a site: make docs."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "training")]

import occ_perception  # noqa: E402

project = "occ_perception"
author = "the authors of occ_perception"
version = release = occ_perception.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# CONTRIBUTING.md and code are read in the repository; a test follows every link of every page.
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_include_init_with_doc = False

html_theme = "furo"
html_title = f"occ_perception {release}"
html_show_sphinx = False
