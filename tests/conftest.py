"""Fixtures for every test: see ``harness.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import hypothesis
import pytest
from scripted_provider import Script, Scripted

from choreo_wsgi import providers

# How long an example takes says nothing on a machine that does other things as well.
hypothesis.settings.register_profile(
    "choreo", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("choreo")


@pytest.fixture
def require_tool() -> Callable[[str, str], str]:
    """``require_tool(name, package)``: the program's path; skips, under CI=true fails."""
    return harness.require_tool


@pytest.fixture
def serve() -> Iterator[Callable[..., harness.Server]]:
    """``serve(app, **adjustments)``: a real waitress, closed when the test is over."""
    servers: list[harness.Server] = []

    def start(app: Any, **adjustments: Any) -> harness.Server:
        servers.append(harness.Server(app, **adjustments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Script]]:
    """Installs the provider type ``scripted``, through an entry point as anybody's would be.

    Returns a function that makes the :class:`Script` of the next request.
    """
    metadata = tmp_path / "scripted-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[choreo_wsgi.providers]\nscripted = scripted_provider:Scripted\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scripts: list[Script] = []
    waiting: list[Script] = []

    def make() -> Script:
        script = Script()
        scripts.append(script)
        waiting.append(script)
        return script

    monkeypatch.setattr(Scripted, "script", staticmethod(lambda _: waiting.pop(0)), raising=False)
    providers._entries.cache_clear()
    providers.provider_class.cache_clear()
    yield make
    providers._entries.cache_clear()
    providers.provider_class.cache_clear()
