"""The upstream that answers as a test says, and clients for it: ``upstream_fixtures.py``."""

from upstream_fixtures import client, upstream  # noqa: F401
