"""Events that differ from the last one only in text are not parsed, but give the same items."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from nightly import examples

from choreo_wsgi import sse
from choreo_wsgi.chat.items import Delta, Item
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.openai.chunks import OpenAITranslator

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TEXTS = ["a", " b", *"cdefg", "", 'say "x"', "back\\slash", "two\nlines", "é😀", "\u2028", "\x7f",
         "<think>", '","x":"', "}", "data: [DONE]", "[DONE]"]  # fmt: skip
CALL = {"index": 0, "id": "i", "function": {"name": "f", "arguments": "{}"}}
OTHER = {"index": 1, "delta": {"reasoning_content": "hm"}, "finish_reason": None}
#: Members beside the text of a delta.
BESIDE: list[dict[str, Any]] = [
    *[{}] * 8, {"role": "assistant"}, {"reasoning_content": "hm"}, {"refusal": "no"},
    {"tool_calls": [CALL]}, {"extra": {"content": "a"}}, {"content": None},
    {"content": [{"type": "text", "text": "a"}]},
]  # fmt: skip
#: Members beside the choices of a chunk.
OUTSIDE: list[dict[str, Any]] = [
    *[{}] * 12, {"usage": None}, {"usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    {"error": {"message": "no"}},
]  # fmt: skip
#: Members of a choice.
INSIDE: list[dict[str, Any]] = [
    *[{}] * 8, {"finish_reason": "stop"}, {"logprobs": {"content": [{"token": "a"}]}}, {"index": 1}
]  # fmt: skip
EVENTS = [""] * 20 + ["message", "error"]


def random_stream(random: Random) -> bytes:
    """Return a stream in which other events interrupt runs of similar ones."""
    frames = []
    while len(frames) < 30:
        beside, outside, inside = map(random.choice, (BESIDE, OUTSIDE, INSIDE))
        spaces = random.choice([(",", ":"), (",", ":"), (", ", ": ")])
        member = random.choice(["delta", "delta", "message"])
        names = random.sample(["choices", *HEAD, *outside], 4 + 1 + len(outside))
        fixed, other = random.choice([True, False, False]), random.choice([[], [], [], [OTHER]])
        for _ in range(random.randrange(1, 9)):
            text = "a" if fixed else random.choice(TEXTS)
            choice = {
                "index": 0,
                member: {"content": text, **beside},
                "finish_reason": None,
                **inside,
            }
            whole = {**HEAD, "choices": [*other, choice], **outside}
            chunk = {"content": random.choice(TEXTS[:2])} if fixed else {}
            chunk |= {name: whole[name] for name in names}
            data = json.dumps(chunk, ensure_ascii=random.random() < 0.5, separators=spaces)
            frames.append(sse.frame(data.encode(), event=random.choice(EVENTS)))
    return b"".join(frames) + sse.DONE


def read(stream: bytes) -> tuple[list[Item], str, Any]:
    """Return the items of *stream*, the message of its error, and its usage."""
    translator, items = OpenAITranslator(2), list[Item]()
    try:
        translator.translate(stream, items)
    except ChoreoError as error:
        return items, error.message, translator.usage
    return items, "", translator.usage


def test_unparsed_events_give_same_items_as_parsed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(13)
    streams = [random_stream(random) for _ in range(examples(300, 5000))]
    expected = list(map(read, streams))
    monkeypatch.setattr(OpenAITranslator, "_learn", lambda *_: None)
    assert list(map(read, streams)) == expected


def test_events_that_differ_only_in_text_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    text = json.dumps({**HEAD, "choices": [choice]}, separators=(",", ":"))
    translator, items = OpenAITranslator(), list[Item]()
    translator.translate(sse.frame(text.encode()), items)
    translator.translate(sse.frame(text.encode()), items)  # the first event lacked a role
    monkeypatch.setattr("choreo_wsgi.providers.openai.chunks.read_chunks", None)
    translator.translate(sse.frame(text.replace('"x"', '"another"').encode()), items)
    assert items == [Delta("x"), Delta("x"), Delta("another")]
