"""Stored responses, created, resumed, retrieved and cancelled by the openai package."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import harness
import openai
import pytest
from nightly import examples
from official import RESPONSE, judge
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter
from raw_server import RawServer
from scripted_provider import Script, Scripted
from wsgi_calls import call

from choreo_wsgi import sse
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish, ToolCall, Usage
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.errors import PermissionDenied, from_provider
from choreo_wsgi.replay import Reader, Writer
from choreo_wsgi.replay.backend import Write
from choreo_wsgi.replay.sqlite import SQLiteBackend

Make = Callable[..., Application]
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
WORDS = " ".join(f"w{number}" for number in range(30))
#: Enough responses that each phase of one is cut.
COUNT = examples(60, 1000)
PROVIDERS = {"slow": {"type": "echo", "models": "slow", "delay_ms": "2"}}


@pytest.fixture
def served(application: Make, serve: Callable[..., harness.Server]) -> Callable[..., str]:
    """``served(sections)``: start a server, return its URL."""

    def start(sections: Any = PROVIDERS, **settings: str) -> str:
        return serve(application(sections, **settings), threads=40).url

    return start


@pytest.fixture
def served_from_each(served: Callable[..., str], replay_url: str) -> Callable[..., str]:
    """``served`` with each of the three stores in turn."""
    return partial(served, replay=replay_url)


def client_of(url: str, key: str = "k") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


@pytest.fixture
def scripted_url(
    served: Callable[..., str], scripted: Callable[[], Script]
) -> Iterator[tuple[str, Script]]:
    """Return the URL of a server whose model follows a script, and that script."""
    script = scripted()
    yield served({"scripted": {"models": "m"}}), script
    script.finish(Finish())


def wait_for(responses: Any, id: str, status: str) -> Response:
    found: list[Response] = []

    def reached() -> bool:
        found.append(responses.retrieve(id))
        return found[-1].status == status

    harness.wait_until(reached, f"the response is not {status}")
    return found[-1]


def test_responses_cut_anywhere_are_resumed_whole(served_from_each: Callable[..., str]) -> None:
    """Every event is received once, numbered without gaps, with the whole text."""
    chance = random.Random(13)
    with client_of(served_from_each(max_streams="100")) as client:
        responses = client.responses

        def run(cuts: list[int]) -> None:
            members: Any = {"model": "slow", "input": WORDS, "background": True, "stream": True}
            events: list[Any] = []
            with responses.create(**members) as stream:
                for event in stream:
                    events.append(event)
                    if len(events) > cuts[0]:
                        break
            id = events[0].response.id
            for cut in cuts[1:]:
                after = events[-1].sequence_number
                with responses.retrieve(id, stream=True, starting_after=after) as stream:
                    for number, event in enumerate(stream):
                        events.append(event)
                        if number > cut:
                            break
            assert [event.sequence_number for event in events] == list(range(len(events)))
            assert events[-1].type == "response.completed"
            deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
            assert "".join(deltas) == WORDS == events[-1].response.output_text

        with ThreadPoolExecutor(12) as pool:
            plans = [[chance.randrange(20), chance.randrange(12), 1000] for _ in range(COUNT)]
            list(pool.map(run, plans))


def test_background_response_is_retrieved_when_complete(served: Callable[..., str]) -> None:
    with client_of(served()) as client:
        begun = client.responses.create(model="slow", input=WORDS, background=True)
        assert (begun.status, begun.output, begun.background) == ("queued", [], True)
        done = wait_for(client.responses, begun.id, "completed")
        assert done.output_text == WORDS
        assert done.usage is not None and done.usage.output_tokens == 30


@pytest.mark.parametrize("stream", [False, True])
def test_idempotency_key_creates_one_response(served: Callable[..., str], stream: bool) -> None:
    body: Any = {"model": "slow", "input": "hi", "store": True, "stream": stream}
    headers = {"Idempotency-Key": "once"}
    with client_of(served()) as client:
        answers: list[Any] = [
            client.responses.create(**body, extra_headers=headers) for _ in range(2)
        ]
        if stream:
            answers = [list(events)[-1].response for events in answers]
        first, second = answers
        assert (first.id, first.output_text) == (
            second.id,
            client.responses.retrieve(first.id).output_text,
        )
        with pytest.raises(openai.ConflictError):
            client.responses.create(**{**body, "input": "ho"}, extra_headers=headers)


def test_retrieve_returns_the_text_so_far(scripted_url: tuple[str, Script]) -> None:
    url, script = scripted_url
    with client_of(url) as client:
        begun = client.responses.create(model="m", input="hi", background=True)
        script.say("one ", "two ")
        harness.wait_until(
            lambda: client.responses.retrieve(begun.id).output_text == "one two ", "its text"
        )
        script.finish(Finish("length"), Usage(1, 2))
        done = wait_for(client.responses, begun.id, "incomplete")
        assert done.incomplete_details is not None
        assert done.output_text == "one two "


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_retrieve_returns_the_tool_call_so_far(scripted_url: tuple[str, Script], kind: str) -> None:
    """Finished items are complete; the running one has its arguments so far."""
    url, script = scripted_url
    tool: Any = {"type": kind, "name": "f"}
    with client_of(url) as client:
        begun = client.responses.create(model="m", input="hi", background=True, tools=[tool])
        script.say("text", Delta(tool_calls=[ToolCall(0, "call_1", "f", '{"input":"a')]))
        harness.wait_until(lambda: len(client.responses.retrieve(begun.id).output) == 2, "its call")
        text, made = client.responses.retrieve(begun.id).output
        judge(RESPONSE, client.responses.retrieve(begun.id).to_dict(mode="json"))
        assert (text.type, text.status, text.content[0].text) == ("message", "completed", "text")
        assert (made.type, made.name) == (f"{kind}_call".replace("custom", "custom_tool"), "f")
        script.finish(Delta(tool_calls=[ToolCall(0, "", "", 'b"}')]), Finish("tool_calls"))
        done = wait_for(client.responses, begun.id, "completed").output[1]
        assert (done.input if kind == "custom" else done.arguments) in ("ab", '{"input":"ab"}')


def test_queued_response_can_be_retrieved_and_cancelled(scripted_url: tuple[str, Script]) -> None:
    """And resumed, although nothing has been generated yet."""
    url, _ = scripted_url
    with client_of(url) as client:
        begun = client.responses.create(model="m", input="hi", background=True)
        response = client.responses.retrieve(begun.id)
        judge(RESPONSE, response.to_dict(mode="json"))
        assert (response.id, response.status, response.background) == (begun.id, "queued", True)
        cancelled = client.responses.cancel(begun.id)
        judge(RESPONSE, cancelled.to_dict(mode="json"))
        assert (cancelled.id, cancelled.status) == (begun.id, "cancelled")
        (*_, last) = client.responses.retrieve(begun.id, stream=True)
        assert (last.type, last.response.status) == ("response.failed", "cancelled")


def test_response_that_cannot_be_logged_has_failed(
    scripted_url: tuple[str, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What followed was logged, and the response had no end."""
    url, script = scripted_url
    append, failures = Writer.append, list[str]()

    def fail_once(self: Writer, frames: bytes, *more: Any, **options: Any) -> None:
        if b"two" in frames and not failures:
            failures.append("failed")
            raise MemoryError
        append(self, frames, *more, **options)

    monkeypatch.setattr(Writer, "append", fail_once)
    with client_of(url) as client:
        begun = client.responses.create(model="m", input="hi", background=True)
        script.say("one ", "two ")
        failed = wait_for(client.responses, begun.id, "failed")
        assert failed.error is not None and failed.error.code == "server_error"
        events = list(client.responses.retrieve(begun.id, stream=True))
    assert [event.type for event in events].count("response.failed") == 1
    assert script.closed.is_set()


def test_input_items_are_listed_by_page(served: Callable[..., str]) -> None:
    """Every item has an id; the last one comes first."""
    with client_of(served()) as client:
        listing = client.responses.input_items
        input: Any = [{"role": "user", "content": f"number {number}"} for number in range(5)]
        input[1:1] = [{"role": "assistant", "content": "yes"}]
        kept = client.responses.create(model="slow", input=input, store=True)
        page = listing.list(kept.id, limit=2)
        for item in page.data:
            judge(ITEM, item.to_dict(mode="json"))
        assert page.has_more
        texts = [item.content[0].text for item in page]  # type: ignore[union-attr]
        assert texts == ["number 4", "number 3", "number 2", "number 1", "yes", "number 0"]
        rest = listing.list(kept.id, order="asc", after=page.data[1].id)
        assert [item.content[0].text for item in rest.data] == ["number 4"]  # type: ignore[union-attr]
        many = client.responses.create(model="slow", input=[input[0]] * 21, store=True)
        assert len(listing.list(many.id).data) == 20
        for members in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_x"}):
            with pytest.raises(openai.BadRequestError) as raised:
                listing.list(kept.id, **members)  # type: ignore[arg-type]
            assert raised.value.param == next(iter(members))


def test_cancel_stops_the_response(scripted_url: tuple[str, Script]) -> None:
    url, script = scripted_url
    with client_of(url) as client:
        members: Any = {"model": "m", "input": "hi", "background": True, "stream": True}
        script.say("one ")
        with client.responses.create(**members) as stream:
            id = next(stream).response.id
            assert client.responses.cancel(id).status == "cancelled"
            last = list(stream)[-1]
        assert (last.type, last.response.status) == ("response.failed", "cancelled")
        assert script.closed.wait(harness.DEADLINE)
        assert client.responses.retrieve(id).status == "cancelled"
        assert client.responses.cancel(id).status == "cancelled"


def test_delete_stops_the_response(
    served_from_each: Callable[..., str], scripted: Callable[[], Script]
) -> None:
    """Although its model sends nothing meanwhile."""
    script = scripted()
    with client_of(served_from_each({"scripted": {"models": "m"}})) as client:
        id = client.responses.create(model="m", input="hi", background=True).id
        assert script.asked.wait(harness.DEADLINE)
        client.responses.delete(id)
        assert script.closed.wait(harness.DEADLINE)


def test_response_cancelled_by_another_process_is_stopped(
    application: Make,
    serve: Callable[..., harness.Server],
    scripted: Callable[[], Script],
    tmp_path: Path,
) -> None:
    """The cancel request waits until the generating process has ended it."""
    script, replay = scripted(), f"sqlite:{tmp_path / 'log.sqlite'}"
    made = [application({"scripted": {"models": "m"}}, replay=replay) for _ in range(2)]
    urls = [serve(one, threads=40).url for one in made]
    with client_of(urls[0]) as making, client_of(urls[1]) as reading:
        script.say("one ")
        id = making.responses.create(model="m", input="hi", background=True).id
        wait_for(reading.responses, id, "in_progress")
        assert reading.responses.cancel(id).status == "cancelled"
        assert reading.responses.retrieve(id).status == "cancelled"
    script.finish(Finish())


def test_native_events_are_kept_when_the_provider_breaks_off(
    served: Callable[..., str],
) -> None:
    """The failed response has the output of the events forwarded until then."""
    response = {"id": "resp_up", "object": "response", "model": "m", "output": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **where, "part": part},
        {"type": "response.output_text.delta", **where, "delta": "as far "},
        {"type": "response.output_text.delta", **where, "delta": "as here"},
    ]
    frames = b"".join(
        sse.frame(json.dumps({**event, "sequence_number": at}).encode(), event=event["type"])
        for at, event in enumerate(events)
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    with RawServer.playing(head + frames) as upstream:
        section = {"type": "openai", "models": "m", "base_url": upstream.url, "api_key": "k"}
        section["apis"] = "chat, responses"
        with client_of(served({"up": section})) as client:
            id = client.responses.create(model="m", input="hi", background=True).id
            failed = wait_for(client.responses, id, "failed")
    assert (failed.id, failed.output_text) == (id, "as far as here")
    assert failed.output[0].status == "incomplete"  # type: ignore[union-attr]


def test_previous_response_id_continues_the_conversation(served: Callable[..., str]) -> None:
    with client_of(served()) as client:
        first = client.responses.create(model="slow", input="one", store=True, instructions="x")
        assert (first.output_text, first.status, first.store) == ("one", "completed", True)
        second = client.responses.create(
            model="slow", input="two", store=True, previous_response_id=first.id
        )
        assert second.previous_response_id == first.id
        items: list[Any] = client.responses.input_items.list(second.id).data
        assert [item.role for item in items] == ["user", "assistant", "user"]
        third = client.responses.create(
            model="slow", input="three", previous_response_id=second.id, stream=True
        )
        assert list(third)[-1].response.usage.input_tokens == 5  # type: ignore[union-attr]


def test_previous_response_id_needs_no_input(served: Callable[..., str]) -> None:
    with client_of(served()) as client:
        first = client.responses.create(model="slow", input="again", background=True)
        assert first.store is True  # background implies it
        wait_for(client.responses, first.id, "completed")
        second = client.responses.create(model="slow", previous_response_id=first.id)
        assert second.output_text == "again"


def test_running_response_cannot_be_continued(
    scripted_url: tuple[str, Script],
) -> None:
    url, script = scripted_url
    with client_of(url) as client:
        begun = client.responses.create(model="m", input="hi", background=True)
        script.say("half")
        for _ in range(2):
            with pytest.raises(openai.BadRequestError, match="has not ended yet") as caught:
                client.responses.create(model="m", input="on", previous_response_id=begun.id)
            assert caught.value.param == "previous_response_id"


def test_cancelled_response_can_be_continued(
    application: Make,
    serve: Callable[..., harness.Server],
    scripted: Callable[[], Script],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its text, but without the incomplete call, whose arguments are invalid JSON."""
    script = scripted()
    requests: list[ChatRequest] = []
    url = serve(application({"scripted": {"models": "m"}}), threads=8).url
    tools: Any = [{"type": "function", "name": "look", "parameters": {}}]
    with client_of(url) as client:
        script.say("half ", Delta(tool_calls=[ToolCall(0, "c", "look", '{"at":')]))
        id = client.responses.create(model="m", input="hi", tools=tools, background=True).id
        harness.wait_until(
            lambda: len(client.responses.retrieve(id).output) == 2, "the call is started"
        )
        cancelled = client.responses.cancel(id)
        assert [item.status for item in cancelled.output] == ["completed", "incomplete"]  # type: ignore[union-attr]

        def answer(request: ChatRequest) -> Source:
            requests.append(request)
            return from_deltas([Delta("on"), Finish()])

        monkeypatch.setattr(Scripted, "script", staticmethod(answer))
        client.responses.create(model="m", input="go on", previous_response_id=id)
    assert [(one["role"], one["content"], "tool_calls" in one) for one in requests[0].messages] == [
        ("user", "hi", False),
        ("assistant", "half ", False),
        ("user", "go on", False),
    ]


def test_incomplete_text_is_continued(
    application: Make, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, requests = application({"scripted": {"models": "m"}}), list[ChatRequest]()
    scripted().finish("half", Finish("length"))
    first = call(app, "POST", "/v1/responses", {"model": "m", "input": "hi", "store": True})

    def answer(request: ChatRequest) -> Source:
        requests.append(request)
        return from_deltas([Delta("on"), Finish()])

    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    more = {"model": "m", "input": "go on", "previous_response_id": first.json()["id"]}
    assert call(app, "POST", "/v1/responses", more).status == 200
    assert [message["content"] for message in requests[0].messages] == ["hi", "half", "go on"]


def test_item_references_are_resolved(served_from_each: Callable[..., str]) -> None:
    """As sent by the Vercel AI SDK, which does not send ``store``."""
    with client_of(served_from_each(keep_responses="on")) as client:
        first = client.responses.create(model="slow", input="one")
        (item,) = first.output
        reference: Any = {"type": "item_reference", "id": item.id}
        input: list[Any] = [{"role": "user", "content": "one"}, reference]
        input.append({"role": "user", "content": "two"})
        second = client.responses.create(model="slow", input=input)
        assert second.usage is not None and second.usage.input_tokens == 3
        assert client.responses.retrieve(second.id).output_text == "two"
        passing = client.responses.create(model="slow", input="one", store=False)
        for id in (passing.output[0].id, item.id[:-1] + "7", "msg_1"):
            with pytest.raises(openai.BadRequestError, match="not stored here"):
                client.responses.create(model="slow", input=[{**reference, "id": id}])


def test_missing_response_returns_404(served_from_each: Callable[..., str]) -> None:
    url = served_from_each(api_keys="k, other")
    with client_of(url) as client, client_of(url, "other") as other:
        kept = client.responses.create(model="slow", input="one", store=True)
        passing = client.responses.create(model="slow", input="one")
        gone = client.responses.create(model="slow", input="one", store=True)
        client.responses.delete(gone.id)
        for caller, id in ((client, passing.id), (other, kept.id), (client, gone.id),
                           (client, "resp_"), (client, "resp_" + "x" * 32)):  # fmt: skip
            for request in (caller.responses.retrieve, caller.responses.cancel):
                with pytest.raises(openai.NotFoundError) as missed:
                    request(id)
                assert missed.value.code == "response_not_found"
            with pytest.raises(openai.BadRequestError) as raised:
                caller.responses.create(model="slow", input="x", previous_response_id=id)
            assert raised.value.code == "previous_response_not_found"
            assert raised.value.param == "previous_response_id"


def test_response_survives_its_server(
    application: Make, serve: Callable[..., harness.Server], tmp_path: Path
) -> None:
    """Another process with the same store can retrieve, resume and continue it."""
    urls = [
        serve(application(PROVIDERS, replay=f"sqlite:{tmp_path / 'replay.db'}")).url
        for _ in range(2)
    ]
    with client_of(urls[0]) as first, client_of(urls[1]) as second:
        kept = first.responses.create(model="slow", input="one two", store=True)
        assert second.responses.retrieve(kept.id).output_text == "one two"
        rest = list(second.responses.retrieve(kept.id, stream=True, starting_after=7))
        assert [event.sequence_number for event in rest] == [8, 9]
        again = second.responses.create(
            model="slow", input="three", store=True, previous_response_id=kept.id
        )
        assert again.output_text == "three"


@pytest.mark.parametrize("more", [{}, {"store": True}])
def test_keep_responses_stores_responses_only(application: Make, more: dict[str, Any]) -> None:
    app = application(keep_responses="true")
    body = {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    for path, kind in (("chat/completions", "chatcmpl-"), ("messages", "msg_")):
        answer = call(app, "POST", f"/v1/{path}", {**body, **more})
        assert answer.status == 200 and answer.json()["id"].startswith(kind)


def test_keep_responses_adds_no_field_to_upstream_messages(
    application: Make, upstream: Callable[..., RawServer]
) -> None:
    server = upstream(lambda peer: peer.json({"error": {"message": "no"}}, "400 X"))
    section = {"type": "anthropic", "base_url": server.url, "api_key": "k", "models": "m"}
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    app = application({"up": section}, keep_responses="true")
    assert call(app, "POST", "/v1/messages", body).status == 400
    assert server.requests[0].json() == body


def test_response_whose_request_was_dropped_cannot_be_continued(
    served_from_each: Callable[..., str],
) -> None:
    """A stored input that is longer than a log may be is answered, as one without ``store`` is."""
    with client_of(served_from_each(replay_stream_bytes="4096")) as client:
        input: Any = [{"role": "user", "content": text} for text in ("word " * 1000, "hi")]
        made = client.responses.create(model="slow", input=input, store=True)
        assert wait_for(client.responses, made.id, "completed").output_text == "hi"
        with pytest.raises(openai.APIStatusError) as listed:
            client.responses.input_items.list(made.id)
        assert listed.value.status_code == 410
        with pytest.raises(openai.BadRequestError, match="too long to be kept") as continued:
            client.responses.create(model="slow", input="x", previous_response_id=made.id)
        assert continued.value.code == "previous_response_not_found"


def test_cancelled_response_whose_request_was_dropped_is_retrieved(
    application: Make, scripted: Callable[[], Script]
) -> None:
    """It has no output, so all its events are read."""
    script = scripted()
    app = application({"scripted": {"models": "m"}}, replay_stream_bytes="8192")
    body = {"model": "m", "input": "word " * 2000, "background": True}
    path = f"/v1/responses/{call(app, 'POST', '/v1/responses', body).json()['id']}"
    assert script.asked.wait(harness.DEADLINE)
    call(app, "POST", f"{path}/cancel")
    assert call(app, "GET", path).json()["status"] == "cancelled"
    assert call(app, "GET", f"{path}/input_items").status == 410


def test_retrieval_is_logged_with_its_api(
    application: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "choreo_wsgi")
    assert call(application(), "GET", "/v1/responses/resp_x").status == 404
    (line,) = [record.account for record in caplog.records if hasattr(record, "account")]
    assert line["api"] == "responses"


def test_request_that_cannot_be_stored_leaves_no_stream(
    application: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    app = application()
    monkeypatch.setattr("choreo_wsgi.replay.Writer.append", fail)
    body = {"model": "echo", "input": "hi", "store": True}
    assert call(app, "POST", "/v1/responses", body).status == 500
    assert not app._resumption().store._keeper.writers


@pytest.mark.parametrize("api", ["chat/completions", "messages"])
def test_stream_of_another_api_is_no_response(application: Make, api: str) -> None:
    app = application()
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    more: Any = {"HTTP_CHOREO_RESUMABLE": "1"}
    begun = call(app, "POST", f"/v1/{api}", {**body, "stream": True}, **more)
    id = "resp_" + begun.headers["choreo-stream-id"].removeprefix("strm_")
    next = {"model": "echo", "input": "x", "previous_response_id": id}
    assert call(app, "POST", "/v1/responses", next).error["code"] == "previous_response_not_found"
    for path in (id, f"{id}/input_items"):
        assert call(app, "GET", f"/v1/responses/{path}").status == 404


def test_invalid_response_parameters_are_rejected(application: Make) -> None:
    app = application()
    kept = call(app, "POST", "/v1/responses", {"model": "echo", "input": "x", "store": True}).json()
    path = f"/v1/responses/{kept['id']}"
    answer = call(app, "GET", path, QUERY_STRING="stream=true&starting_after=-1")
    assert (answer.status, answer.error["param"]) == (400, "starting_after")
    answer = call(app, "GET", path, QUERY_STRING="stream=maybe")
    assert (answer.status, answer.error["param"]) == (400, "stream")
    for flag in ("TRUE", "1"):
        answer = call(app, "GET", path, QUERY_STRING=f"stream={flag}")
        assert answer.headers["content-type"].startswith("text/event-stream")
    answer = call(app, "GET", "/v1/responses/" + "\xff" * 200)
    assert answer.error["message"] == f"response {chr(255) * 100!a} does not exist or has expired"
    unkept = {"model": "echo", "input": "x", "store": False, "background": True}
    answer = call(app, "POST", "/v1/responses", unkept)
    assert (answer.status, answer.error["param"]) == (400, "store")
    assert call(app, "PUT", path).headers["allow"] == "GET, DELETE, HEAD, OPTIONS"
    assert call(app, "GET", f"{path}/cancel").headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    ("failure", "status"), [(RuntimeError("a bug"), 500), (PermissionDenied("not you"), 403)]
)
def test_failed_stored_response_returns_its_error(
    scripted_url: tuple[str, Script], failure: Exception, status: int
) -> None:
    """The waiting client receives the same error as without ``store``."""
    url, script = scripted_url
    with client_of(url) as client:
        script.say("half", failure)
        with pytest.raises(openai.APIStatusError) as raised:
            client.responses.create(model="m", input="hi", store=True)
        assert raised.value.status_code == status


@pytest.mark.parametrize(
    ("status", "code"),
    [(429, "rate_limit_exceeded"), (400, "invalid_prompt"), (503, "server_error")],
)
def test_failed_response_event_has_an_openai_code(
    scripted_url: tuple[str, Script], status: int, code: str
) -> None:
    url, script = scripted_url
    with client_of(url) as client:
        script.say("half", from_provider(status, "why"))
        (*_, last) = client.responses.create(model="m", input="hi", stream=True)
        assert (last.type, last.response.error.code) == ("response.failed", code)


def test_filtered_response_is_incomplete(scripted_url: tuple[str, Script]) -> None:
    url, script = scripted_url
    with client_of(url) as client:
        script.finish("half", Finish("content_filter"))
        response = client.responses.create(model="m", input="hi")
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "content_filter"
        assert response.output[0].status == "incomplete"


def test_stored_request_is_not_sent_to_clients(application: Make) -> None:
    """Neither to the one that created the response nor to those that join or retrieve it."""
    app = application(PROVIDERS)
    body = {"model": "slow", "input": "hi", "store": True, "stream": True}
    made, joined = (
        call(app, "POST", "/v1/responses", body, HTTP_IDEMPOTENCY_KEY="k") for _ in range(2)
    )
    id = json.loads(made.body.split(b"data: ")[1].splitlines()[0])["response"]["id"]
    again = call(app, "GET", f"/v1/responses/{id}", QUERY_STRING="stream=true")
    assert made.body == joined.body == again.body
    assert made.body.startswith(b"id: 2\nevent: response.created\n")


def test_waiting_client_receives_the_cancelled_response(
    application: Make, scripted: Callable[[], Script]
) -> None:
    script = scripted()
    app = application({"scripted": {"models": "m"}})
    body = {"model": "m", "input": "hi", "store": True}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, app, "POST", "/v1/responses", body)
        assert script.asked.wait(harness.DEADLINE)
        (stream,) = app._resumption().store._keeper.writers
        path = f"/v1/responses/resp_{stream.removeprefix('strm_')}/cancel"
        assert call(app, "POST", path).json()["status"] == "cancelled"
        answer = waiting.result(harness.DEADLINE)
    assert (answer.status, answer.json()["status"]) == (200, "cancelled")


def test_long_input_is_stored_unchanged(application: Make) -> None:
    """Long strings are parsed separately from the rest of the request."""
    app = application()
    text = "wörter " * 20_000
    body = {"model": "echo", "input": text, "store": True, "max_output_tokens": 1}
    kept = call(app, "POST", "/v1/responses", body)
    path = f"/v1/responses/{kept.json()['id']}/input_items"
    (item,) = call(app, "GET", path).json()["data"]
    assert item["content"][0]["text"] == text


@pytest.mark.parametrize("late", ["first", "last"])
def test_response_that_is_slow_to_reach_the_log_is_answered_whole(
    application: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """A client was told that it is in progress, or unknown, if SQLite took more than 50 ms."""
    waited = threading.Event()  # whether the log was waited for
    write, receive, flush = SQLiteBackend.write, Reader.receive, Writer.flush

    def slow_write(backend: SQLiteBackend, producer: str, writes: Sequence[Write]) -> list[bool]:
        if late == "first" or any(one.end for one in writes):
            waited.wait(harness.DEADLINE)
        return write(backend, producer, writes)

    def noted(reader: Reader, timeout: float) -> bytes:
        if timeout:
            waited.set()
        return receive(reader, timeout)

    def noted_flush(writer: Writer, timeout: float) -> None:
        if timeout > 0.5:
            waited.set()
        flush(writer, timeout)

    monkeypatch.setattr(SQLiteBackend, "write", slow_write)
    monkeypatch.setattr(Reader, "receive", noted)
    monkeypatch.setattr(Writer, "flush", noted_flush)
    app = application(replay=f"sqlite:{tmp_path / 'replay.db'}")
    try:
        body = {"model": "echo", "input": WORDS, "store": True, "background": late == "first"}
        made = call(app, "POST", "/v1/responses", body).json()
        found = call(app, "GET", f"/v1/responses/{made['id']}")
        assert found.status == 200
        if late == "last":
            assert made == found.json()
            assert made["status"] == "completed"
            assert made["output"][0]["content"][0]["text"] == WORDS
    finally:
        waited.set()
