from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from replay_helpers import RedisServer
from upstream_fixtures import upstream  # noqa: F401


@pytest.fixture(params=["memory", "sqlite", "redis"])
def replay_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the setting ``replay`` for each backend in turn."""
    if request.param == "memory":
        yield "memory:"
    elif request.param == "sqlite":
        yield f"sqlite:{tmp_path / 'replay.db'}"
    else:
        harness.require_tool("redis-server", "redis-server")
        server = RedisServer(tmp_path)
        server.start()
        yield server.url
        server.stop()
