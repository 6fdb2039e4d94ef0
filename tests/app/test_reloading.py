"""Reloading the configuration of a running application."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import make_app, wait_until
from wsgi_calls import call, chat, environ_of

from choreo_wsgi.app.application import Application
from choreo_wsgi.providers import Provider
from choreo_wsgi.settings import configure


def providers(app: Application) -> dict[str, Provider]:
    return dict(app.router.providers)


def test_unchanged_provider_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a local model is not restarted, and its streams are not cut."""
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
    # The replaced provider may have running streams; it is closed with the others.
    closed: list[Provider] = []
    monkeypatch.setattr(type(before["b"]), "close", lambda provider: closed.append(provider))
    app.close()
    assert before["b"] in closed and after["b"] in closed


def test_used_amounts_of_a_key_survive_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "choreo.ini"
    digest = hashlib.sha256(b"sk-ann").hexdigest()
    path.write_text(f"[key ann]\ndigest = {digest}\nrequests_per_minute = 1\n")
    app = Application(configure({}, {}, str(path)), {})
    statuses = []
    for _ in range(2):
        answer = call(
            app, "POST", "/v1/chat/completions", chat("x"), HTTP_AUTHORIZATION="Bearer sk-ann"
        )
        statuses.append(answer.status)
        assert app.reload()
    assert statuses == [200, 429]
    app.close()


def test_programmatic_configuration_cannot_be_reloaded(caplog: pytest.LogCaptureFixture) -> None:
    configuration = configure({}, {})
    app = Application(type(configuration)(configuration.settings, {}), {})
    assert not app.reload()
    assert "it did not come from a file" in caplog.text
    app.close()


def test_last_key_behind_a_proxy_cannot_be_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server behind a proxy does not start without keys either."""
    path = tmp_path / "choreo.ini"
    head = "[choreo]\nbehind_proxy = true\n"
    path.write_text(f"{head}[key ann]\ndigest = {'a' * 64}\n")
    app = Application(configure({}, {}, str(path)), {})
    path.write_text(f"{head}[provider x]\ntype = echo\nmodels = x\n")
    assert not app.reload()
    assert "stays as it was: behind_proxy" in caplog.text
    assert call(app, "GET", "/v1/models").status == 401
    app.close()


def test_limits_added_by_a_reload_are_enforced(tmp_path: Path) -> None:
    path = tmp_path / "choreo.ini"
    section = f"[key ann]\ndigest = {hashlib.sha256(b'sk-ann').hexdigest()}\n"
    path.write_text(section)
    app = Application(configure({}, {}, str(path)), {})
    path.write_text(f"{section}requests_per_minute = 1\n")
    assert app.reload()
    ann = {"HTTP_AUTHORIZATION": "Bearer sk-ann"}
    answers = [call(app, "POST", "/v1/chat/completions", chat("x"), **ann) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    app.close()


def test_close_ends_all_threads(tmp_path: Path) -> None:
    """The threads of the replay log, the limits and the orphans."""
    digest = hashlib.sha256(b"sk-ann").hexdigest()
    before = set(threading.enumerate())
    app = make_app(
        {"replay": f"sqlite:{tmp_path / 'replay.db'}"},
        {"key ann": {"digest": digest, "max_streams": "9", "requests_per_minute": "9"}},
    )
    more = {"HTTP_AUTHORIZATION": "Bearer sk-ann", "HTTP_CHOREO_RESUMABLE": "1"}
    body = chat("a b c", stream=True)
    head: Any = lambda *head: lambda data: None  # noqa: E731
    left: Any = app(environ_of("POST", "/v1/chat/completions", body, **more), head)
    next(iter(left))
    left.close()
    wait_until(lambda: app.active == 0, "the orphan has ended")
    assert set(threading.enumerate()) > before
    app.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "all threads have ended")
