"""A slot is freed exactly once, however a request ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from replay_helpers import eventually, size_of
from scripted_provider import Script
from wsgi_calls import call, chat, environ_of

from choreo_wsgi.app.application import Application
from choreo_wsgi.app.slots import Slot, Slots
from choreo_wsgi.chat.items import Finish
from choreo_wsgi.errors import ModelNotFound, ProviderError
from choreo_wsgi.replay import Writer

Make = Callable[..., Application]
CHAT = "/v1/chat/completions"
RESPONSE: dict[str, Any] = {"model": "echo", "input": "a"}


def scripted_app(application: Make, **settings: str) -> Application:
    return application({"s": {"type": "scripted", "models": "echo"}}, **settings)


def refuse_head(*head: Any) -> Any:
    raise OSError("the server cannot send this head")


@pytest.mark.parametrize("stream", [True, False])
def test_failing_start_response_frees_the_slot(
    application: Make, scripted: Callable[[], Script], stream: bool
) -> None:
    app = scripted_app(application, max_streams="1")
    script = scripted()
    script.finish("a", Finish())
    environ = environ_of("POST", CHAT, chat("a", stream=stream))
    body: Any = None
    with pytest.raises(OSError, match="cannot send"):
        body = app(environ, refuse_head)
        next(iter(body))
    if hasattr(body, "close"):
        body.close()  # a server closes it in any case
    assert app.active == 0 and script.closed.is_set()
    scripted().finish("b", Finish())
    assert call(app, "POST", CHAT, chat("a")).status == 200


@pytest.mark.parametrize("stream", [True, False])
def test_head_that_cannot_be_made_frees_the_slot(application: Make, stream: bool) -> None:
    """The server gave no protocol, which the answer to ``choreo-wsgi check`` is to name."""
    app = application(max_streams="1")
    environ = environ_of("POST", CHAT, chat("a", stream=stream), HTTP_CHOREO_CHECK="1")
    del environ["SERVER_PROTOCOL"]
    body: Any = None
    with pytest.raises(KeyError):
        body = app(environ, lambda *head: lambda data: None)
        next(iter(body))
    if hasattr(body, "close"):
        body.close()
    assert app.active == 0


def fail(*arguments: Any) -> Any:
    raise RuntimeError("no accounting")


@pytest.mark.parametrize("failing", ["requested", "charged", "finished", "limits"])
@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        (CHAT, chat("a"), {}),
        (CHAT, chat("a", stream=True), {}),
        (CHAT, chat("a", stream=True), {"HTTP_CHOREO_RESUMABLE": "1"}),
        ("/v1/responses", {**RESPONSE, "store": True}, {}),
        ("/v1/responses", {**RESPONSE, "background": True}, {}),
    ],
)
def test_failing_accounting_is_logged_and_fails_no_request(
    application: Make,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, Any],
    more: dict[str, str],
    failing: str,
) -> None:
    app, told = application(max_streams="1"), list[str]()
    hooks = ("requested", "charged", "finished")
    tell: dict[str, Any] = {hook: lambda _, hook=hook: told.append(hook) for hook in hooks}
    app.observers += [SimpleNamespace(**{**tell, failing: fail}), SimpleNamespace(**tell)]
    if failing == "limits":
        limits: Any = SimpleNamespace(admit=lambda *_: fail, blocking=False, close=lambda: None)
        app._completions.limits = limits
    assert call(app, "POST", path, body, **more).status == 200
    eventually(lambda: app.active == 0)
    assert set(told) == set(hooks) and "no accounting" in caplog.text
    app.close()


def test_stream_closed_twice_frees_one_slot(
    application: Make, scripted: Callable[[], Script]
) -> None:
    scripts = [scripted(), scripted()]
    for script in scripts:
        script.say("a")
    app = scripted_app(application)
    first, second = (
        app(environ_of("POST", CHAT, chat("a", stream=True)), lambda *head: lambda data: None)
        for _ in scripts
    )
    assert next(iter(first)) and next(iter(second))
    assert app.active == 2
    first.close()  # type: ignore[attr-defined]
    first.close()  # type: ignore[attr-defined]
    assert app.active == 1
    second.close()  # type: ignore[attr-defined]
    assert app.active == 0


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/v1/streams/strm_unknown", {}),
        ("POST", CHAT, {"CONTENT_TYPE": "text/plain"}),
    ],
)
def test_rejected_request_frees_its_slot(
    application: Make, method: str, path: str, more: dict[str, str]
) -> None:
    app = application(max_streams="1")
    for _ in range(3):
        body = chat("a") if method == "POST" else None
        assert 400 <= call(app, method, path, body, **more).status < 500
        assert app.active == 0
    assert call(app, "POST", CHAT, chat("a")).status == 200


def test_provider_failure_is_logged_without_a_traceback(
    application: Make, scripted: Callable[[], Script], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "choreo_wsgi")
    scripted().finish(ProviderError("the provider is down"))
    answer = call(scripted_app(application), "POST", CHAT, chat("a"), HTTP_X_REQUEST_ID="down-1")
    assert answer.status == 502
    lines = [record.getMessage() for record in caplog.records if record.name != "py.warnings"]
    assert any("down-1" in line and "502" in line for line in lines)
    assert all(record.exc_info is None for record in caplog.records)


def test_bug_is_logged_with_its_traceback(
    application: Make, scripted: Callable[[], Script], caplog: pytest.LogCaptureFixture
) -> None:
    scripted().finish(RuntimeError("a bug in a provider"))
    answer = call(scripted_app(application), "POST", CHAT, chat("a"), HTTP_X_REQUEST_ID="bug-1")
    assert answer.status == 500 and "a bug" not in answer.body.decode()
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert with_traceback and "bug-1" in with_traceback[0].getMessage()
    assert "a bug in a provider" in caplog.text


def test_drain_waits_for_readers_and_rejects_new_ones(application: Make) -> None:
    app = application()
    begun = call(app, "POST", CHAT, chat("a", stream=True), HTTP_CHOREO_RESUMABLE="1")
    path = begun.headers["content-location"]
    reading: Any = app(environ_of("GET", path), lambda *head: lambda data: None)
    assert app.active == 1
    reading.close()
    assert app.active == 0
    app.drain()
    refused = call(app, "GET", path)
    assert (refused.status, refused.error["code"]) == (503, "server_shutting_down")
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [True, False])
def test_stop_ends_a_completion_before_its_first_byte(
    application: Make, scripted: Callable[[], Script], stream: bool
) -> None:
    script, app, heads = scripted(), scripted_app(application), list[str]()
    body: Any = app(
        environ_of("POST", CHAT, chat("a", stream=stream)),
        lambda status, *more: heads.append(status),
    )
    app.stop()
    assert b"server_shutting_down" in next(body) and heads == ["503 Service Unavailable"]
    body.close()
    assert script.closed.is_set() and app.active == 0


def test_failover_target_may_need_more_slots(
    application: Make, scripted: Callable[[], Script]
) -> None:
    """It receives one request per choice after the first target has failed."""
    targets = {"a": {"type": "echo", "models": "m"}, "b": {"type": "scripted", "models": "m"}}
    body = {**chat("a"), "model": "m", "n": 3}
    assert call(application(targets, max_streams="3"), "POST", CHAT, body).status == 200
    refused = call(application(targets, max_streams="2"), "POST", CHAT, body)
    assert (refused.status, refused.error["param"]) == (400, "n")


def test_stored_response_that_cannot_be_logged_leaves_no_log(
    application: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError("no room")

    app = application()
    monkeypatch.setattr(Writer, "append", full)
    assert call(app, "POST", "/v1/responses", {**RESPONSE, "store": True}).status == 500
    assert size_of(app._resumption().store) == 0


def test_failed_request_that_cannot_be_logged_leaves_no_log(
    application: Make, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another with its key may wait for the end of the log."""
    scripted().finish(ProviderError("no"))
    app = scripted_app(application)
    monkeypatch.setattr(Writer, "append", fail)
    more = {"HTTP_CHOREO_RESUMABLE": "1", "HTTP_IDEMPOTENCY_KEY": "k"}
    assert call(app, "POST", CHAT, chat("a", stream=True), **more).status == 500
    assert (app.active, size_of(app._resumption().store)) == (0, 0)


def test_rejected_background_response_leaves_no_log(application: Make) -> None:
    app = application(max_streams="1")
    running: Any = app(
        environ_of("POST", CHAT, chat("a", stream=True)), lambda *head: lambda data: None
    )
    assert call(app, "POST", "/v1/responses", {**RESPONSE, "background": True}).status == 503
    running.close()
    assert size_of(app._resumption().store) == 0


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        (CHAT, chat("a"), {}),
        (CHAT, chat("a", stream=True), {}),
        (CHAT, chat("a", stream=True), {"HTTP_CHOREO_RESUMABLE": "1"}),
        ("/v1/responses", {**RESPONSE, "background": True}, {}),
    ],
)
def test_model_removed_by_a_reload_leaves_no_slot_and_no_log(
    application: Make,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    more: dict[str, str],
) -> None:
    """The reload happens between the admission of a request and its start."""
    app = application(max_streams="1")
    find, models = app._completions.router.targets, []

    def targets(model: str) -> Any:
        models.append(model)
        if len(models) > 1:
            raise ModelNotFound("it was there a moment ago")
        return find(model)

    monkeypatch.setattr(app._completions.router, "targets", targets)
    assert call(app, "POST", path, body, **more).status == 404
    assert app.active == 0 and size_of(app._resumption().store) == 0
    app.close()


class SlowSlots(Slots):
    """Slots whose count is slow to read: threads without a lock would read the same."""

    @property  # type: ignore[override]
    def active(self) -> int:
        count = self._active
        time.sleep(0.02)
        return count

    @active.setter
    def active(self, count: int) -> None:
        self._active = count


def test_two_threads_take_and_release_their_own_slots() -> None:
    slots = SlowSlots(2)
    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(lambda _: slots.take(), range(2)))
        assert slots.active == 2
        list(pool.map(Slot.release, taken))
    assert slots.active == 0


def test_slot_is_released_once() -> None:
    slots = Slots(2)
    first, second = slots.take(), slots.take()
    first.release()
    first.release()
    assert slots.active == 1
    second.release()
    assert slots.active == 0
