"""Sphinx settings: pages in Markdown, the reference from docstrings."""

from airlora.version import __version__

project = "airlora"
author = "The airlora authors"
copyright = "2026, the airlora authors"  # noqa: A001 (Sphinx's own name)
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"airlora {__version__}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Third-party types in signatures have no pages here, and nothing may be fetched while building.
nitpicky = False
suppress_warnings = ["myst.header"]
