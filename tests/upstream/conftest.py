"""Servers that send the bytes of a test, and clients for them: see ``upstream_fixtures.py``."""

from upstream_fixtures import client, upstream  # noqa: F401
