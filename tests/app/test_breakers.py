"""The circuit breakers of targets, across several requests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scripted_provider import Script, Scripted
from wsgi_calls import call, chat

from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Finish
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ProviderError

Make = Callable[..., Application]
CHAT = "/v1/chat/completions"
BAD_THEN_GOOD = {
    "bad": {"type": "scripted", "models": "m"},
    "good": {"type": "echo", "models": "m"},
}


@pytest.fixture
def failing(scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the scripted provider fail; return the list of models requested from it."""
    requested: list[str] = []

    def script(request: ChatRequest) -> Script:
        requested.append(request.model)
        failure = Script()
        failure.say(ProviderError("no"))
        return failure

    monkeypatch.setattr(Scripted, "script", staticmethod(script))
    return requested


@pytest.mark.parametrize("stream", [True, False])
def test_target_is_skipped_after_five_failures_in_a_row(
    application: Make, failing: list[str], stream: bool
) -> None:
    app = application(BAD_THEN_GOOD)
    for number in range(1, 9):
        answer = call(app, "POST", CHAT, {**chat("hello", stream=stream), "model": "m"})
        assert (answer.status, answer.headers["choreo-provider"]) == (200, "good")
        assert len(failing) == min(number, 5)


def test_only_target_is_tried_despite_its_open_circuit(
    application: Make, failing: list[str]
) -> None:
    app = application({"bad": {"type": "scripted", "models": "m"}})
    for number in range(1, 9):
        answer = call(app, "POST", CHAT, {**chat("hello"), "model": "m"})
        assert (answer.status, answer.error["code"]) == (502, "provider_api_error")
        assert len(failing) == number


def test_each_model_has_its_own_circuit(application: Make, failing: list[str]) -> None:
    sections = {
        "bad": {"type": "scripted", "models": "m, other"},
        "good": {"type": "echo", "models": "m, other"},
    }
    app = application(sections)
    for _ in range(6):
        call(app, "POST", CHAT, {**chat("hello"), "model": "m"})
    assert len(failing) == 5
    call(app, "POST", CHAT, {**chat("hello"), "model": "other"})
    assert failing[-1] == "other" and len(failing) == 6


def test_success_resets_the_failure_count(
    application: Make, scripted: Callable[[], Script]
) -> None:
    app = application(BAD_THEN_GOOD)

    def provider_after(*steps: object) -> str:
        script = scripted()
        script.finish(*steps)
        answer = call(app, "POST", CHAT, {**chat("hello"), "model": "m"})
        return answer.headers["choreo-provider"]

    for _ in range(4):
        assert provider_after(ProviderError("no")) == "good"
    assert provider_after("yes", Finish()).startswith("bad")
    for _ in range(4):
        assert provider_after(ProviderError("no")) == "good"
    assert provider_after("yes", Finish()).startswith("bad")
