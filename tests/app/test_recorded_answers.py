"""Answers that are translated and recorded: numbered as they are written, in little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from replay_helpers import create, in_memory
from scripted_provider import Script
from work import traced
from wsgi_calls import call

from choreo_wsgi.apis import load
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas
from choreo_wsgi.errors import UpstreamInvalid
from choreo_wsgi.providers.base import Provider
from choreo_wsgi.replay import Store
from choreo_wsgi.replay.backend import Unreachable, Write
from choreo_wsgi.replay.sqlite import SQLiteBackend
from choreo_wsgi.streams.recording import Recording
from choreo_wsgi.streams.stream import Control, Generation

Make = Callable[..., Application]
MEBIBYTE = 1024 * 1024


def texts(size: int) -> list[Item]:
    """Return an answer of *size* letters, in pieces."""
    return [*(Delta("y" * 50_000) for _ in range(size // 50_000)), Finish()]


def arguments(size: int, letter: str = "y") -> list[Item]:
    """Return a call whose arguments have *size* characters, in pieces."""
    pieces = ['{"a":"', *[letter * (50_000 // len(letter))] * (size // 50_000), '"}']
    calls = (
        ToolCall(0, *(("1", "f") if at == 0 else ("", "")), one) for at, one in enumerate(pieces)
    )
    return [*(Delta(tool_calls=[one]) for one in calls), Finish("tool_calls")]


def recording_of(api: str, items: Sequence[Item], store: Store) -> Recording:
    """Return the recording of an answer of *api* that has *items*."""
    asked = {"model": "m", "max_tokens": 9, "stream": True}
    asked |= (
        {"input": "hi"} if api == "responses" else {"messages": [{"role": "user", "content": "hi"}]}
    )
    log = create(store)
    request = replace(load(api).read(json.dumps(asked).encode()), log=log)
    writer = load(api).writer(request)
    answer = Answer(from_deltas(items), writer, 1, "m")
    return Recording(Generation(answer, Control(), writer), log, lambda _: True)


@pytest.fixture
def store() -> Any:
    made = in_memory(ttl=60, stream_bytes=4 * MEBIBYTE, total_bytes=64 * MEBIBYTE)
    yield made
    made.close()


@pytest.mark.parametrize("items", [texts(100_000), arguments(100_000)], ids=["text", "call"])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_frames_are_numbered_once(
    store: Store, api: str, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of Responses and Messages by their writer, as a copy of a long one takes as much."""
    recording = recording_of(api, items, store)
    if api != "chat":
        monkeypatch.delattr("choreo_wsgi.sse.number")
    frames = b""
    while not recording.ended:
        frames += recording.receive(1)
    found = re.findall(rb"^id: (\d+)$", frames, re.MULTILINE)
    assert list(map(int, found)) == list(range(1, recording.writer.last + 1))
    assert frames.count(b"\n\n") == len(found) > 3


@pytest.mark.parametrize("make", [texts, arguments])
def test_recorded_response_takes_its_log_and_two_copies(
    store: Store, make: Callable[[int], list[Item]]
) -> None:
    """The text, the event that is made, and what is left in the log of those before."""
    for size in (100_000, 3_000_000):  # the first loads the modules
        recording = recording_of("responses", make(size), store)
        with traced() as memory:
            while not recording.ended:
                recording.receive(1)
    assert memory.peak < 3.2 * size


def test_log_makes_room_for_the_event_that_repeats_all_calls(store: Store) -> None:
    """But half of it stays: a client that has lost its connection can return."""
    items: list[Item] = [
        Delta(tool_calls=[ToolCall(at, f"{at}", "f", '{"a":"%s"}' % ("y" * 10_000))])
        for at in range(180)
    ]
    recording = recording_of("responses", [*items, Finish("tool_calls")], store)
    log = store._backend._logs[recording.writer.id]  # type: ignore[attr-defined]
    sizes = []
    while not recording.ended:
        recording.receive(1)
        sizes.append(log.size)
    sizes.pop()  # with the last event
    assert max(sizes) < 3.2 * MEBIBYTE  # it was all of the limit
    assert min(sizes[len(sizes) // 2 :]) > 1.9 * MEBIBYTE


def test_each_long_block_of_an_ending_is_made_where_no_stream_waits(store: Store) -> None:
    """Escaping arguments of megabytes once more took 20 ms for each event."""
    recording = recording_of("responses", arguments(1_000_000), store)
    long = []
    while not recording.ended:
        block = recording.receive(0)
        if not block and recording.generation.due is None and recording.fileno() is None:
            block = recording.receive(1)
            long.append(len(block) > 1_000_000)
    assert long == [False, True, True]  # the first made one too, returned by the next step


def test_long_block_of_an_orphan_ends_its_step(store: Store) -> None:
    recording = recording_of("responses", texts(1_000_000), store)
    while recording.writer.last < 2 + 20:
        recording.step(1)
    before = recording.writer.last
    recording.step(1)
    assert recording.writer.last == before + 1


@pytest.mark.parametrize(("size", "is_refused"), [(500_000, False), (550_000, True)])
def test_escapes_in_arguments_of_a_log_are_limited(
    store: Store, size: int, is_refused: bool
) -> None:
    """An object of quotes is twice as long as a text, several times."""
    recording = recording_of("responses", arguments(size, '\\"'), store)
    frames = b""
    while not recording.ended:
        frames += recording.receive(1)
    assert (recording.outcome != "completed") == is_refused
    assert (b"many escapes" in frames) == is_refused
    assert isinstance(recording.generation.failure, UpstreamInvalid | None)


@pytest.fixture
def application_of(
    application: Make, scripted: Callable[[], Script], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Application]:
    """Return a function that makes an application whose model ``m`` answers with some items."""

    def make(items: list[Item], **settings: str) -> Application:
        scripted()
        made = application({"scripted": {"models": "m"}}, **settings)
        provider = type(made.router.targets("m")[0].provider)

        def opened(provider: Provider, request: ChatRequest) -> Source:
            return from_deltas(items)

        monkeypatch.setattr(provider, "open", opened)
        return made

    return make


@pytest.mark.parametrize("make", [texts, arguments])
def test_plain_answer_may_be_too_long_for_the_log(
    application_of: Callable[..., Application], make: Callable[[int], list[Item]]
) -> None:
    """Its client got a 410 after the provider had made it; only retrieving it later is one."""
    app = application_of(make(2_000_000), replay_stream_bytes=str(MEBIBYTE))
    body = {"model": "m", "input": "hi", "store": True}
    with traced() as memory:
        answer = call(app, "POST", "/v1/responses", body)
    assert answer.status == 200 and len(answer.body) > 2_000_000
    assert memory.peak < 4.2 * 2_000_000  # the test's own copy included
    made = answer.json()
    assert made["status"] == "completed" and len(made["output"]) == 1
    assert call(app, "GET", f"/v1/responses/{made['id']}").status == 410
    small = application_of(make(50_000))
    assert call(small, "POST", "/v1/responses", body).json()["status"] == "completed"


def test_plain_answer_needs_no_store_at_its_end(
    application_of: Callable[..., Application], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a 503, after the provider had made the answer."""
    app = application_of(texts(50_000), replay=f"sqlite:{tmp_path / 'replay.db'}")
    write = SQLiteBackend.write

    def failing(backend: SQLiteBackend, producer: str, writes: Sequence[Write]) -> list[bool]:
        if any(one.end for one in writes):
            raise Unreachable("it is full")
        return write(backend, producer, writes)

    monkeypatch.setattr(SQLiteBackend, "write", failing)
    answer = call(app, "POST", "/v1/responses", {"model": "m", "input": "hi", "store": True})
    assert (answer.status, answer.json()["status"]) == (200, "completed")


def test_log_makes_room_for_the_document_of_a_plain_answer(
    application_of: Callable[..., Application],
) -> None:
    """But not for one that is longer than half of the log, which would lose its last event."""
    body = {"model": "m", "input": "hi", "store": True}
    for size, room in ((400_000, 400_000), (700_000, 0)):
        app = application_of(texts(size), replay_stream_bytes=str(MEBIBYTE))
        made = call(app, "POST", "/v1/responses", body).json()
        store: Any = app._resumption().store
        (log,) = store._backend._logs.values()
        assert size < log.size < MEBIBYTE - room
        assert call(app, "GET", f"/v1/responses/{made['id']}").json() == made


@pytest.mark.parametrize("before", [0, 2])
def test_response_that_fails_in_a_block_of_frames_is_numbered_on(store: Store, before: int) -> None:
    """Frames that were made with the one that failed are not sent, and have no numbers."""
    source = from_deltas([Finish()])
    too_long = {"content": [{"token": "y" * 200_000}]}

    def batch(timeout: float) -> list[Item]:
        if not before:
            raise UpstreamInvalid("it is broken")
        return [*[Delta("word")] * before, Delta("three", logprobs=too_long)]

    source.receive = batch  # type: ignore[method-assign]
    asked = json.dumps({"model": "m", "input": "hi", "stream": True}).encode()
    log = create(store)
    writer = load("responses").writer(replace(load("responses").read(asked), log=log))
    generation = Generation(Answer(source, writer, 1, "m"), Control(), writer)
    recording = Recording(generation, log, lambda _: True)
    frames = recording.receive(1)
    assert recording.ended and b"event: response.failed" in frames
    ids = re.findall(rb"^id: (\d+)$", frames, re.MULTILINE)
    assert list(map(int, ids)) == list(range(1, log.last + 1))
    assert log.last == frames.count(b"\n\n")


def with_lists(count: int) -> list[Item]:
    """Return an answer of *count* tokens with log probabilities, and as many citations."""
    token = {"token": "y", "logprob": -0.5, "bytes": [121], "top_logprobs": []}
    citation = {"url": "u", "title": "t", "start_index": 1, "end_index": 2}
    cited = {"annotations": [{"type": "url_citation", "url_citation": citation}]}
    deltas = [Delta("y", logprobs={"content": [token]}, extra=cited) for _ in range(count)]
    return [*deltas, Finish()]


@pytest.mark.parametrize("is_plain", [True, False])
def test_lists_of_an_answer_are_kept_as_json(is_plain: bool) -> None:
    """As values, 40,000 tokens took fourteen times their bytes."""
    asked = json.dumps({"model": "m", "input": "hi", "stream": not is_plain}).encode()
    for count in (10, 5_000):  # the first loads the modules
        writer = load("responses").writer(load("responses").read(asked))
        answer = Answer(from_deltas(with_lists(count)), writer, 1, "m")
        whole, late = b"", False
        with traced() as memory:
            while not answer.ended:
                block = answer.receive(0)
                late = late or (answer.due, answer.fileno(), block) == (None, None, b"")
                whole = (block or answer.receive(1)) or whole
            if is_plain:
                size = len(whole)
    made = json.loads(whole if is_plain else whole.rpartition(b"data: ")[2])
    (item,) = (made if is_plain else made["response"])["output"]
    (part,) = item["content"]
    assert len(part["annotations"]) == len(part["logprobs"]) == 5_000
    assert part["annotations"][-1] == {
        "type": "url_citation",
        "start_index": 1,
        "end_index": 2,
        "title": "t",
        "url": "u",
    }
    assert part["logprobs"][0]["bytes"] == [121]
    assert late  # a worker makes the events that repeat them
    if is_plain:
        assert memory.peak < 3 * size
