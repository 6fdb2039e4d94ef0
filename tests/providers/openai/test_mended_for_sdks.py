"""OpenAI's SDK reads mended replies, through the application and a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import openai
import pytest
from corpus_cases import Case, cases
from harness import Server, make_app
from mistaken_streams import Choice, random_choice, write_stream
from nightly import examples
from raw_server import RawServer, Request

#: A mended reply of each kind that a client can distinguish.
NAMES = ("text", "call-cut-by-length", "calls-of-one-function", "call-without-arguments",
         "reasoning-by-other-names", "logprobs-beside-nothing", "closing-document")  # fmt: skip
CASES = [case for case in cases("openai") if case.folder.name in NAMES]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Upstream:
    """Sends *reply*, which the tests set."""

    def __init__(self) -> None:
        self.reply = b""

    def __call__(self, request: Request) -> bytes:
        return self.reply


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Upstream, openai.OpenAI]]:
    """The upstream, and an SDK client of the application in front of it."""
    upstream = Upstream()
    with RawServer.playing(upstream) as playback:
        section = {"type": "openai", "base_url": f"{playback.url}/v1", "models": "*"}
        app = make_app(sections={"provider up": section})
        with Server(app) as server:
            options = {"base_url": f"{server.url}/v1", "api_key": "any", "max_retries": 0}
            with openai.OpenAI(**options) as client:
                yield upstream, client
        app.close()


def arguments_of(case: Case) -> dict[str, Any]:
    body: dict[str, Any] = case.json("request.json")
    return {name: body[name] for name in ("model", "messages", "tools") if name in body}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_sdk_stream_helper_reads_mended_stream(
    served: tuple[Upstream, openai.OpenAI], case: Case
) -> None:
    upstream, client = served
    upstream.reply = (case.folder / "upstream.http").read_bytes()
    expected = case.json("completion.json")["choices"][0]
    with client.chat.completions.stream(**arguments_of(case)) as stream:
        if expected["finish_reason"] == "length":  # the helper raises for it
            with pytest.raises(openai.LengthFinishReasonError):
                stream.get_final_completion()
            return
        choice = stream.get_final_completion().choices[0]
    assert choice.message.content == expected["message"]["content"] or not choice.message.content
    assert choice.finish_reason == expected["finish_reason"]
    calls = expected["message"].get("tool_calls") or []
    for call, other in zip(choice.message.tool_calls or [], calls, strict=True):
        assert call.id and call.function.name == other["function"]["name"]
        assert json.loads(call.function.arguments) == json.loads(other["function"]["arguments"])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.json("plain.json")], ids=lambda case: case.id
)
def test_sdk_create_reads_mended_document(
    served: tuple[Upstream, openai.OpenAI], case: Case
) -> None:
    upstream, client = served
    upstream.reply = (case.folder / "upstream_plain.http").read_bytes()
    expected = case.json("plain.json")
    completion = client.chat.completions.create(**arguments_of(case))
    message, other = completion.choices[0].message, expected["body"]["choices"][0]["message"]
    assert message.content == other["content"]
    assert len(message.tool_calls or []) == len(other.get("tool_calls", []))


def test_sdk_reads_streams_with_random_mistakes(
    served: tuple[Upstream, openai.OpenAI],
) -> None:
    upstream, client = served
    for seed in range(examples(60, 1000)):
        random = Random(seed)
        choice = random_choice(random)
        _, events = write_stream(random, [choice])
        upstream.reply = HEAD + b"".join(events)
        arguments: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        found = Choice(finish="")
        calls: dict[int, list[str]] = {}
        for chunk in client.chat.completions.create(**arguments, stream=True):
            for one in chunk.choices:
                found.text.append(one.delta.content or "")
                found.finish = one.finish_reason or found.finish
                for call in one.delta.tool_calls or ():
                    assert call.function is not None
                    piece = calls.setdefault(call.index, [call.function.name or "", ""])
                    piece[1] += call.function.arguments or ""
        assert "".join(found.text) == "".join(choice.text), seed
        assert found.finish == choice.finish, seed
        parsed = [(name, json.loads(text)) for name, text in calls.values()]
        assert parsed == [(name, json.loads(text)) for name, text in choice.calls], seed
        if choice.finish not in ("length", "content_filter"):  # the helper raises for these
            with client.chat.completions.stream(**arguments) as stream:
                message = stream.get_final_completion().choices[0].message
            assert (message.content or "") == "".join(choice.text), seed
            assert len(message.tool_calls or []) == len(choice.calls), seed
