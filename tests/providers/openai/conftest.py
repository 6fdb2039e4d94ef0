"""The upstream that answers as a test says, and clients for it: ``upstream_fixtures.py``."""

from collections.abc import Iterator

import pytest
from upstream_fixtures import client, upstream  # noqa: F401

from choreo_wsgi.providers.openai import template


@pytest.fixture(autouse=True)
def no_stream_before() -> Iterator[None]:
    """Let no test know how another's streams began: nothing would be parsed there."""
    template._KNOWN.clear()
    yield
