"""Large stored responses: what they hold is set aside, and bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from scripted_provider import Script
from work import traced
from wsgi_calls import call

from choreo_wsgi.apis.translation import restore_once
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, Marks
from choreo_wsgi.chat.longtext import new_mark
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.providers.base import Provider
from choreo_wsgi.replay import Store

Make = Callable[..., Application]
WIDE = "\U0001f600 " + "x" * 300_000
RESUMABLE = {"HTTP_CHOREO_RESUMABLE": "1"}


@pytest.fixture
def app(application: Make, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch) -> Any:
    """An application whose model ``m`` answers ``ok`` and reads marks, as most providers do."""
    scripted()
    made = application({"scripted": {"models": "m"}}, replay_stream_bytes=str(4 * 1024 * 1024))

    def opened(provider: Provider, request: ChatRequest) -> Source:
        return from_deltas([Delta("ok"), Finish()])

    (provider,) = (made.router.targets("m")[0].provider,)
    monkeypatch.setattr(type(provider), "open", opened)
    monkeypatch.setattr(type(provider), "takes_marks", True)
    return made


@pytest.fixture
def given(app: Any, monkeypatch: pytest.MonkeyPatch) -> list[ChatRequest]:
    """The requests that the provider of *app* is given."""
    requests: list[ChatRequest] = []

    def opened(provider: Provider, request: ChatRequest) -> Source:
        requests.append(request)
        return from_deltas([Delta("ok"), Finish()])

    (target,) = app.router.targets("m")
    monkeypatch.setattr(type(target.provider), "open", opened)
    return requests


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}], ids=str)
def test_stored_wide_text_is_never_one_string(app: Any, more: dict[str, Any]) -> None:
    """As strings of four bytes a character, the request, its log and the document took 13 times."""
    body = {"model": "m", "input": WIDE * 5, "store": True, **more}
    call(app, "POST", "/v1/responses", body)
    with traced() as memory:
        answer = call(app, "POST", "/v1/responses", body)
    assert answer.status == 200
    assert memory.peak < 5 * len(json.dumps(body))  # the test's own copies included


def test_stored_wide_text_is_retrieved_and_continued(app: Any) -> None:
    body = {"model": "m", "input": WIDE, "instructions": WIDE, "store": True}
    first = call(app, "POST", "/v1/responses", body).json()
    assert first["instructions"] == WIDE
    path = f"/v1/responses/{first['id']}"
    assert call(app, "GET", path).json()["instructions"] == WIDE
    (item,) = call(app, "GET", f"{path}/input_items").json()["data"]
    assert item["content"] == [{"type": "input_text", "text": WIDE}]
    more = {"model": "m", "input": "and?", "store": True, "previous_response_id": first["id"]}
    second = call(app, "POST", "/v1/responses", more).json()
    items = call(app, "GET", f"/v1/responses/{second['id']}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["and?", "ok", WIDE]


def test_long_lists_of_a_stored_response_are_never_values(
    app: Any, given: list[ChatRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = {"token": "y", "logprob": -0.5, "bytes": [121], "top_logprobs": []}

    def opened(provider: Provider, request: ChatRequest) -> Source:
        return from_deltas([*[Delta("y", logprobs={"content": [token] * 50})] * 120, Finish()])

    (target,) = app.router.targets("m")
    with monkeypatch.context() as patch:
        patch.setattr(type(target.provider), "open", opened)
        first = call(app, "POST", "/v1/responses", {"model": "m", "input": "hi", "store": True})
    path = f"/v1/responses/{first.json()['id']}"
    for _ in range(2):  # the first loads the modules
        with traced() as memory:
            assert call(app, "GET", path).body == first.body
    assert memory.peak < 4 * len(first.body)
    # They are no input of the next response: as that, they have too many values to be stored.
    id = first.json()["id"]
    more = {"model": "m", "store": True}
    continued = {**more, "input": "and?", "previous_response_id": id}
    reference = {"type": "item_reference", "id": first.json()["output"][0]["id"]}
    for body in (continued, {**more, "input": [reference]}):
        made = call(app, "POST", "/v1/responses", body)
        assert made.status == 200, made.error
        items = call(app, "GET", f"/v1/responses/{made.json()['id']}/input_items").json()["data"]
        (part,) = next(item["content"] for item in items if item.get("role") == "assistant")
        assert (part["text"], part["logprobs"]) == ("y" * 120, [])
        assert "y" * 120 in [message["content"] for message in given.pop().messages]


@pytest.mark.parametrize(
    ("more", "headers"),
    [({"store": True}, {}), ({"background": True}, {}), ({"stream": True}, RESUMABLE)],
    ids=["store", "background", "resumable"],
)
def test_members_that_events_repeat_are_limited_in_logs(
    app: Any, more: dict[str, Any], headers: dict[str, str]
) -> None:
    for size, status in ((500_000, 200), (530_000, 400)):
        body = {"model": "m", "input": "hi", "instructions": "x" * size, **more}
        answer = call(app, "POST", "/v1/responses", body, **headers)
        assert answer.status == status
    assert "may have 524,288 bytes together" in answer.error["message"]
    assert call(app, "POST", "/v1/responses", {**body, "store": False}).status == (
        400 if "background" in more else 200
    )


@pytest.mark.parametrize("more", [{}, {"stream": True}], ids=str)
def test_long_strings_of_a_stored_request_are_held_once(
    app: Any, given: list[ChatRequest], more: dict[str, Any]
) -> None:
    """They are those of the log, so that the body of the request is freed."""
    turns = [{"role": "user", "content": "x" * 30_000}] * 100
    body = {"model": "m", "input": turns, "unknown": "y" * 9_000, "store": True, **more}
    assert call(app, "POST", "/v1/responses", body).status == 200
    parts = list(given.pop().marks.values())
    assert len(parts) == 101
    views = [part for part in parts if isinstance(part, memoryview)]
    assert len(views) == 100
    assert all(bytes(view.obj).startswith(b"id: 1\n") for view in views)


@pytest.mark.parametrize("apis", [(), ("responses",)])
def test_input_that_only_a_provider_with_the_api_needs_is_freed(
    app: Any, given: list[ChatRequest], apis: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = app.router.targets("m")
    monkeypatch.setattr(type(target.provider), "apis", frozenset(apis))
    for more in ({}, {"store": True}, {"stream": True}):
        body = {"model": "m", "input": [{"role": "user", "content": "hi"}], **more}
        assert call(app, "POST", "/v1/responses", body).status == 200
        request = given.pop()
        assert [message["content"] for message in request.messages] == ["hi"]
        assert ("input" in (request.original or {})) is bool(apis)


def test_values_of_a_stored_input_are_limited(app: Any) -> None:
    turns = [{"role": "user", "content": "x" * 480}] * 4_000
    body = {"model": "m", "input": turns, "store": True}
    answer = call(app, "POST", "/v1/responses", body)
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "holds more than" in answer.error["message"]
    assert call(app, "POST", "/v1/responses", {**body, "input": turns[:2_000]}).status == 200
    assert call(app, "POST", "/v1/responses", {**body, "store": False}).status == 200


@pytest.mark.parametrize(("text", "few", "many"), [("", 1200, 1500), ("\U0001f600", 1000, 1250)])
def test_values_of_stored_tools_are_limited(app: Any, text: str, few: int, many: int) -> None:
    """The events of a response repeat them, and an emoji makes each character four bytes."""
    form = {"type": "object", "properties": {"a": {}, "b": {}, "c": {}, "d": {}}}
    tool = {"type": "function", "description": text + "x" * 160, "parameters": form}
    tools = [{**tool, "name": f"f{at}"} for at in range(many)]
    body = {"model": "m", "input": "hi", "tools": tools, "store": True}
    answer = call(app, "POST", "/v1/responses", body)
    assert answer.status == 400
    assert "with its tools, holds more than" in answer.error["message"]
    assert call(app, "POST", "/v1/responses", {**body, "tools": tools[:few]}).status == 200
    assert call(app, "POST", "/v1/responses", {**body, "store": False}).status == 200


@pytest.mark.parametrize(
    ("more", "headers"), [({"store": True}, {}), ({"stream": True}, RESUMABLE)]
)
def test_input_that_no_provider_reads_is_refused_before_it_is_stored(
    app: Any, more: dict[str, Any], headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[Any] = []
    monkeypatch.setattr(Store, "create", lambda *given, **more: created.append(given))
    body = {"model": "m", "input": [{"type": "mcp_call", "name": "x"}], **more}
    answer = call(app, "POST", "/v1/responses", body, **headers)
    assert (answer.status, answer.error["param"]) == (400, "input[0].type")
    assert not created


def test_input_in_the_log_is_joined_once(app: Any) -> None:
    """The parts of a first frame without long strings were joined twice, before what followed."""
    turns = [{"role": "user", "content": "x" * 1_900}] * 2_000
    body = {"model": "m", "input": turns, "store": True}
    for _ in range(2):
        with traced() as memory:
            answer = call(app, "POST", "/v1/responses", body)
        assert answer.status == 200
    assert memory.peak < 3.6 * len(json.dumps(body))  # the test's own copies included


def test_texts_that_were_set_aside_are_freed_as_they_are_joined() -> None:
    """They were in memory twice until the first frame of a stored response was complete."""
    size, count = 100_000, 50
    with traced() as memory:
        marks: Marks = {new_mark().encode(): b"x" * size for _ in range(count)}
        texts = [b'["%b",' % mark for mark in marks]
        whole = restore_once(texts, marks)
    assert whole == b'["%b",' % (b"x" * size) * count
    assert memory.peak < 1.3 * size * count


def test_text_that_was_set_aside_may_be_joined_twice() -> None:
    """As in an item that the input refers to twice."""
    mark, other = new_mark().encode(), new_mark().encode()
    marks: Marks = {mark: b"text", other: b"other"}
    assert restore_once([b"-%b-" % mark, other, mark, mark], marks) == b"-text-othertexttext"
    assert {mark: bytes(marks[mark]), other: bytes(marks[other])} == {  # type: ignore[arg-type]
        mark: b"text",
        other: b"other",
    }


def test_error_for_a_very_long_reference_begins_with_it(app: Any) -> None:
    """It named the placeholder of the id, which was set aside."""
    reference = {"type": "item_reference", "id": "\u20ac" * 200_000}
    answer = call(app, "POST", "/v1/responses", {"model": "m", "input": [reference], "store": True})
    assert answer.status == 400
    assert f"the item '{100 * chr(0x20AC)}' is not stored here" in answer.error["message"]


def test_limit_of_values_beside_much_that_is_repeated_is_not_negative(
    application: Make, scripted: Callable[[], Script]
) -> None:
    scripted()
    most = str(64 * 1024 * 1024)
    made = application({"scripted": {"models": "m"}}, replay_stream_bytes=most)
    body = {"model": "m", "input": "hi", "instructions": "x" * 2_000_000, "store": True}
    answer = call(made, "POST", "/v1/responses", body)
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "holds more than 0 values" in answer.error["message"]


def test_what_a_response_repeats_is_measured_in_pieces(
    application: Make, scripted: Callable[[], Script]
) -> None:
    """Before the request was refused, it was joined to be measured, and once more to be stored."""
    scripted()
    most = str(32 * 1024 * 1024)
    made = application({"scripted": {"models": "m"}}, replay_stream_bytes=most)
    metadata = {f"name{at}": "x" * 100 for at in range(8_000)}
    body = {"model": "m", "input": "hi", "metadata": metadata, "store": True}
    for _ in range(2):
        with traced() as memory:
            answer = call(made, "POST", "/v1/responses", body)
        assert (answer.status, answer.error["param"]) == (400, "input")
    assert memory.peak < 5 * len(json.dumps(body))  # the test's own copies included
