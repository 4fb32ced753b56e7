"""Settings of the documentation; `make docs` builds it."""

import logging
import os
import sys
import warnings
from pathlib import Path

import llmbrain

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE / "examples")]

os.environ.setdefault("MPLBACKEND", "Agg")
warnings.filterwarnings("ignore", category=DeprecationWarning)
# Outputs of examples show warnings without the path of the package on the machine that built the page.
warnings.formatwarning = lambda message, category, *args, **kwargs: f"{category.__name__}: {message}\n"

project = "llmbrain"
author = "the llmbrain developers"
copyright = "2026, the llmbrain developers"
version = release = llmbrain.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "local_mathml",
    "notebook_pages",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = [
    "_build",
    "_ext",
    "examples",
    "sg_execution_times.rst",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/*.zip",
    "gallery/sg_execution_times.rst",
]
html_math_renderer = "mathml"  # no formula needs a script from elsewhere
html_theme = "pydata_sphinx_theme"
html_title = "llmbrain"
html_show_sourcelink = False
html_static_path, html_css_files = ["_static"], ["wide.css"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_sidebars = {"*": []}  # pages without sub-pages have no use for a second list of pages, but for its width

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
default_role = "code"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^_",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "abort_on_example_error": True,
}
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

# Files outside this folder that are shown as pages, and where their links lead from here.
ELSEWHERE = {"docs/": "", "benchmarks/RESULTS.md": "results.md"}


def _mend_links(app, path, docname, content):
    """Let links that hold on the project's front page hold here too."""
    for outside, here in ELSEWHERE.items():
        content[0] = content[0].replace(f"]({outside}", f"]({here}")


def setup(app):
    """Called by Sphinx."""
    app.connect("include-read", _mend_links)
