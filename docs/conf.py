"""Sphinx configuration."""

from choreo_wsgi.version import __version__

project = "choreo-wsgi"
author = "The choreo-wsgi authors"
copyright = "2026, The choreo-wsgi authors"
version = release = __version__
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "A streaming LLM server in one plain WSGI callable",
    "page_width": "1100px",
}
html_static_path = ["_static"]  # custom.css, which alabaster loads by itself
autodoc_typehints = "description"
nitpicky = False
# The API's objects have members named "object" and "type", as Python's types are.
suppress_warnings = ["ref.python"]
