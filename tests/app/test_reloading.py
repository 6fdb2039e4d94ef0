"""Reading the configuration anew: which providers are made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from raw_server import RawServer, sized
from wsgi_calls import call, chat

from choreo_wsgi.app.application import Application
from choreo_wsgi.providers import Provider
from choreo_wsgi.settings import configure


def providers(app: Application) -> dict[str, Provider]:
    return dict(app._router.providers)


def test_a_provider_whose_section_is_the_same_goes_on(tmp_path: Path) -> None:
    """So a local model is not started again, and its streams are not cut."""
    path = tmp_path / "choreo.ini"
    sections = "[provider a]\ntype = echo\nmodels = {}\n[provider b]\ntype = echo\ndelay_ms = {}\n"
    path.write_text(sections.format("x", 1))
    app = Application(configure({}, {}, str(path)), {})
    before = providers(app)
    path.write_text(
        "[provider a]\ntype = echo\nmodels = x\n[provider b]\ntype = echo\ndelay_ms = 2\n"
    )
    assert app.reload()
    after = providers(app)
    assert after["a"] is before["a"] and after["echo"] is before["echo"]
    assert after["b"] is not before["b"]
    app.close()


def test_connections_of_a_provider_that_is_no_more_are_closed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "choreo.ini"
    with RawServer(lambda peer: peer.send(sized(json.dumps({"choices": []}).encode()))) as upstream:
        section = f"[provider up]\ntype = openai\nbase_url = {upstream.base_url}\n"
        path.write_text(f"{section}models = a\n")
        app = Application(configure({"default_model": "none"}, {}, str(path)), {})
        call(app, "POST", "/v1/chat/completions", chat("Hi", model="a"))
        assert upstream.open == 1
        path.write_text(f"{section}models = b\n")
        assert app.reload()
        app.close()
        assert upstream.wait(lambda: upstream.open == 0)


def test_a_configuration_that_was_made_by_a_program(caplog: pytest.LogCaptureFixture) -> None:
    configuration = configure({}, {})
    app = Application(type(configuration)(configuration.settings, {}), {})
    assert not app.reload()
    assert "it did not come from a file" in caplog.text
    app.close()
