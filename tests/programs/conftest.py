"""Fixtures: an upstream whose replies the test writes, and real servers in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest
from launched import Launched, running
from raw_server import RawServer
from real_server import KEY, Answer, told_ini

from choreo_wsgi.local.fetch import fetch_model


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawServer]:
    with RawServer() as one:
        yield one


@pytest.fixture
def answer(upstream: RawServer) -> Callable[[], Answer]:
    """``answer()``: the next request to the upstream, for the test to reply to."""
    return lambda: Answer(upstream.call())


@pytest.fixture(scope="module")
def server(upstream: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server without API keys."""
    with running(tmp_path_factory.mktemp("serve"), told_ini(upstream)) as one:
        yield one


@pytest.fixture(scope="module")
def keyed_server(
    upstream: RawServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    """A server that requires the API key ``KEY``."""
    config = told_ini(upstream, api_keys=KEY)
    with running(tmp_path_factory.mktemp("serve"), config) as one:
        yield one


@pytest.fixture(scope="module")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server without configuration, whose local model answers for every model name."""
    fetch_model(lambda line: None)
    home = Path.home()
    words = ["--preload", "--local-max-tokens", "40"]
    with running(tmp_path_factory.mktemp("local"), "", *words, home=home) as one:
        yield one


@pytest.fixture(scope="session")
def made() -> Callable[[Path], Path]:
    """``made(path)``: *path*, or a skipped test if it was not made."""
    return harness.require_made
