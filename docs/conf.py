"""The documentation site: `sphinx-build -W --keep-going -b html docs docs/_build/html`, with the extra `docs`."""

import os
import shutil
from pathlib import Path

import qnumpy

os.environ.setdefault("QNUMPY_NUM_THREADS", "1")  # the pages are small; notebooks of the build inherit it

DOCS = Path(__file__).parent

# The examples stand beside docs/, and Sphinx reads one folder. Pages of names that are gone would stay.
shutil.rmtree(DOCS / "_examples", ignore_errors=True)
shutil.copytree(DOCS.parent / "examples", DOCS / "_examples", ignore=shutil.ignore_patterns(".*"))
shutil.rmtree(DOCS / "reference" / "generated", ignore_errors=True)

project = "qnumpy"
author = "the authors of qnumpy"
copyright = "the authors of qnumpy"
release = version = qnumpy.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "**/.ipynb_checkpoints"]

html_theme = "pydata_sphinx_theme"
html_title = f"qnumpy {release}"
html_copy_source = False
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}

# Pages of MyST run, and a cell that fails is a warning; the examples keep the outputs that they were saved with.
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["_examples/*"]
nb_execution_timeout = 300
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's section Parameters names the types
numpydoc_show_class_members = False  # the template of classes shows their members
numpydoc_class_members_toctree = False


def inventories():
    """Return intersphinx's mapping where DOCS_LINK=1; the build reads nothing from a network otherwise."""
    if os.environ.get("DOCS_LINK") != "1":
        return {}
    return {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "onnx": ("https://onnx.ai/onnx", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }


intersphinx_mapping = inventories()


def link_examples(app, docname, source):
    """Lead links to examples/ to the copies."""
    up = "../" * docname.count("/")
    source[0] = source[0].replace(f"]({up}../examples/", f"]({up}_examples/")


def setup(app):
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", link_examples)
