"""The access log: one line per request, as text and as JSON, without secrets."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from harness import make_app, wait_until
from scripted_provider import Script
from wsgi_calls import call, chat, environ_of

from choreo_wsgi.app.account import Account
from choreo_wsgi.app.log import JSONLine, Members, TextLine
from choreo_wsgi.errors import BodyTooLarge

CHAT = "/v1/chat/completions"
KEY = "sk-the-key-of-ann"
ANN = {"key ann": {"digest": hashlib.sha256(KEY.encode()).hexdigest()}}
AUTHORIZED = {"HTTP_AUTHORIZATION": f"Bearer {KEY}"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that returns the fields of the lines logged so far."""
    caplog.set_level(logging.INFO, "choreo_wsgi")

    def read() -> list[dict[str, Any]]:
        return [record.account for record in caplog.records if hasattr(record, "account")]

    return read


@pytest.mark.parametrize("stream", [True, False])
def test_completion_is_logged_with_tokens_and_timing(lines: Any, stream: bool) -> None:
    app = make_app({}, ANN)
    body = chat("one two", stream=stream, max_tokens=1)
    call(app, "POST", CHAT, body, HTTP_X_REQUEST_ID="x-1", **AUTHORIZED)
    (line,) = lines()
    assert {name: line[name] for name in line if name not in ("seconds", "first", "frames")} == {
        "id": "x-1",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "outcome": "completed",
        "key": "ann",
        "api": "chat",
        "model": "echo",
        "provider": "echo",
        "tokens_in": 2,
        "tokens_out": 1,
        "client": "127.0.0.1",
    }
    if stream:
        assert line["frames"] == 4  # the role, a word, the finish reason, [DONE]
        assert 0 <= line["first"] <= line["seconds"]
    else:
        assert line["first"] is line["frames"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "variables", "status", "outcome"),
    [
        ("POST", CHAT, chat("x"), {}, 401, "missing_authorization"),
        ("POST", CHAT, b"{", AUTHORIZED, 400, "invalid_json"),
        ("GET", "/nowhere", None, AUTHORIZED, 404, "endpoint_not_found"),
        ("OPTIONS", CHAT, None, {}, 204, "ok"),
        ("GET", "", None, {"SCRIPT_NAME": "/mount"}, 200, "ok"),
        ("GET", "/v1/models", None, AUTHORIZED, 200, "ok"),
    ],
)
def test_other_requests_are_logged_with_status_and_outcome(
    lines: Any, method: str, path: str, body: Any, variables: Any, status: int, outcome: str
) -> None:
    call(make_app({"default_model": "none"}, ANN), method, path, body, **variables)
    (line,) = lines()
    assert (line["status"], line["outcome"], line["path"]) == (status, outcome, path or "/")
    assert line["key"] == ("ann" if variables is AUTHORIZED else None)


def test_seconds_cover_the_whole_request() -> None:
    account = Account("id", "GET", "/", "")
    account.began -= 5.0
    for seconds in (2.0004, 3.0):
        account.sent(1, account.began + seconds)
    account.finish()
    logged = account.members()
    assert logged["seconds"] == round(account.seconds or 0, 3) >= 5.0 and logged["first"] == 2.0
    account.finish("again")
    assert account.outcome == "ok"


def test_failing_start_response_is_logged_once(lines: Any) -> None:
    def refuse(status: str, headers: Any, exc_info: Any = None) -> Any:
        raise OSError("no")

    app = make_app({})
    for path, body in ((CHAT, chat("one", stream=True)), ("/healthz", None)):
        with pytest.raises(OSError, match="no"):
            list(app(environ_of("POST" if body else "GET", path, body), refuse))
    assert [line["outcome"] for line in lines()] == ["client_closed", "start_response_failed"]


def test_client_disconnect_mid_stream_is_logged(serve: Any, lines: Any) -> None:
    app = make_app({}, {"provider slow": {"type": "echo", "delay_ms": "20", "models": "slow"}})
    with serve(app).connect() as client:
        client.request("POST", CHAT, chat("word " * 5000, model="slow", stream=True))
        client.read_head()
        client.read_frame()
        client.reset()
        wait_until(lines, "the line is logged")
    (line,) = lines()
    assert (line["outcome"], line["status"]) == ("client_closed", 200)


def test_client_disconnect_before_the_head_is_logged(
    lines: Any, scripted: Callable[[], Script]
) -> None:
    scripted()
    app = make_app({}, {"provider s": {"type": "scripted", "models": "echo"}})
    disconnected: Any = {"waitress.client_disconnected": lambda: True}
    call(app, "POST", CHAT, chat("one"), **disconnected)
    (line,) = lines()
    assert (line["outcome"], line["status"]) == ("client_closed", 408)


@pytest.mark.parametrize("stream", [True, False])
def test_bug_is_logged_as_internal_error(
    lines: Any, scripted: Callable[[], Script], stream: bool
) -> None:
    scripted().say(RuntimeError("a bug"))
    app = make_app({}, {"provider s": {"type": "scripted", "models": "echo"}})
    call(app, "POST", CHAT, chat("one", stream=stream))
    (line,) = lines()
    assert (line["outcome"], line["status"]) == ("internal_error", 500)
    assert line["provider"] == "s/echo"


def test_request_that_the_server_refuses_is_logged_with_its_code(lines: Any) -> None:
    error = BodyTooLarge("no")
    list(make_app({}).refuse(environ_of("POST", CHAT), lambda *head: None, error))  # type: ignore[arg-type,return-value]
    assert [(line["status"], line["outcome"]) for line in lines()] == [(413, "body_too_large")]


def test_completion_is_logged_when_its_last_byte_was_sent(lines: Any) -> None:
    body: Any = make_app({})(environ_of("POST", CHAT, chat("one")), lambda *head: None)
    assert next(body) and not lines()
    body.close()
    assert [line["outcome"] for line in lines()] == ["completed"]


def test_log_line_escapes_control_and_non_ascii_characters(
    lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = chat("the prompt", model='a"b=c\n2030-01-01 forged\x1b[31mé\x7f')
    call(make_app({"default_model": "none"}, ANN), "POST", CHAT, body, **AUTHORIZED)
    (text,) = map(TextLine().format, caplog.records)
    assert text.isprintable() and text.isascii()
    assert r'model="a\"b=c\n2030-01-01 forged\u001b[31m\u00e9\u007f"' in text
    assert " status=404 outcome=model_not_found key=ann api=chat " in text
    assert "prompt" not in text and KEY not in text


def test_missing_values_are_omitted() -> None:
    assert str(Members(id="plain", key=None, status=200)) == "id=plain status=200"


@pytest.mark.parametrize("text", ["", "a b", 'a"', "a=b", "\u00e9", "\n"])
def test_ambiguous_values_are_quoted(text: str) -> None:
    logged = str(Members(id="plain", method=text, path="/", status=200, key=None))
    assert logged == f"id=plain method={json.dumps(text)} path=/ status=200"


def test_json_line_contains_the_account_without_the_prompt(
    lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    call(make_app(), "POST", CHAT, chat("the prompt"))
    (line,) = map(JSONLine().format, caplog.records)
    logged = json.loads(line)
    assert "\n" not in line and "prompt" not in line
    assert (logged["level"], logged["model"], logged["tokens_out"]) == ("info", "echo", 2)
    assert logged["time"].endswith("Z") and "message" not in logged


def test_json_line_contains_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("choreo_wsgi").exception("it failed: %s", "x")
    (line,) = map(JSONLine().format, caplog.records)
    logged = json.loads(line)
    assert logged["message"] == "it failed: x" and "ValueError: two\nlines" in logged["traceback"]


@pytest.mark.parametrize("stream", [True, False])
def test_response_closed_unread_by_the_server_is_logged(
    lines: Any, scripted: Callable[[], Script], stream: bool
) -> None:
    scripted()
    app = make_app({}, {"provider s": {"type": "scripted", "models": "echo"}})
    body: Any = app(environ_of("POST", CHAT, chat("one", stream=stream)), lambda *head: None)
    body.close()
    (line,) = lines()
    assert (line["outcome"], line["provider"]) == ("client_closed", "s/echo")
    assert app.active == 0
