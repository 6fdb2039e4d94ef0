"""Members of a delta with values of any type: no API raises anything but ChoreoError."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import test_reply_bodies

from choreo_wsgi import apis, sse
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.openai.chunks import OpenAITranslator

ODD: list[Any] = [1, "x", True, [], {}, [1], ["x"], [None], [{}], [[]], {"a": 1}]
PARTS = [{"type": "image_url", "image_url": value} for value in (1, "x", None, {}, {"url": 5}, [])]
CITATIONS = [
    {"type": "url_citation", "url_citation": value}
    for value in (1, "x", None, {}, {"url": 5, "title": []}, [])
]
THINKING = [
    {"type": kind, "thinking": value, "signature": value, "data": value}
    for kind in ("thinking", "redacted_thinking", 5)
    for value in (1, None, {}, ["x"])
]
BODIES = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "responses": {"input": "x"},
    "messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
}


READ = ("images", "thinking_blocks", "annotations", "content_parts", "audio", "logprobs")
#: The members that writers read, with each API; writers ignore other members.
CASES = [
    *((member, api, stream) for member in READ for api in BODIES for stream in (True, False)),
    *((member, "chat", stream) for member in ("content", "x") for stream in (True, False)),
    ("refusal", "responses", True),
]


@pytest.mark.parametrize(("member", "api", "stream"), CASES)
def test_malformed_members_raise_only_choreo_errors(member: str, api: str, stream: bool) -> None:
    lists = [*PARTS, *CITATIONS, *THINKING]
    for value in [*ODD, PARTS, CITATIONS, THINKING, *([one] for one in lists)]:
        reader = apis.load(api)
        body = {"model": "m", "stream": stream, **BODIES[api]}
        writer = reader.writer(reader.read(json.dumps(body).encode()))
        translator = OpenAITranslator(1)
        choice = {"index": 0, "delta": {"content": "a", member: value}, "finish_reason": None}
        if member == "logprobs":
            choice |= {"delta": {"content": "a"}, "logprobs": value}
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        with contextlib.suppress(ChoreoError):
            for one in (choice, choice, last):
                event = {"id": "c", "created": 1, "model": "m", "choices": [one]}
                for item in translator.receive_data(sse.frame(json.dumps(event).encode())):
                    writer.write(item)
            for item in translator.end():
                writer.write(item)
            writer.finish()


def test_stream_for_document_is_parsed_incrementally(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at its end, when it may have 64 MiB."""
    sizes = []
    read = OpenAITranslator.receive_data

    def receive_data(self: OpenAITranslator, data: bytes) -> Any:
        sizes.append(len(data))
        return read(self, data)

    monkeypatch.setattr(OpenAITranslator, "receive_data", receive_data)
    body = test_reply_bodies.EVENTS.replace(b'"Hi"', b'"%b"' % (b"Hi" * 1000))
    events, last = body.split(b"\n\n")[1], body.split(b"\n\n", 2)[2]
    answer = test_reply_bodies.http(b"\n\n" + (events + b"\n\n") * 1000 + last)
    assert test_reply_bodies.fetch(answer, stream=False)[0] == "Hi" * 1000 * 1000
    assert max(sizes) <= 256 * 1024 < sum(sizes)
