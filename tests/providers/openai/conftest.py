"""The scripted upstream and its clients, from ``upstream_fixtures.py``; no known templates."""

from collections.abc import Iterator

import pytest
from upstream_fixtures import client, upstream  # noqa: F401

from choreo_wsgi.providers.openai import template


@pytest.fixture(autouse=True)
def forget_templates() -> Iterator[None]:
    """Forget the templates of other tests' streams: events that match one are not parsed."""
    template._KNOWN.clear()
    yield
