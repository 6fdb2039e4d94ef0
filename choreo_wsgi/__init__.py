"""A streaming LLM server in one plain WSGI callable."""

__version__ = "0.1.0"
