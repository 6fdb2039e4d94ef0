"""Answers with something wrong in them: an error that a client is told, never one of ours."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from corpus_cases import Case, cases, outcome

from choreo_wsgi import sse


def unlike(found: list[Case]) -> Iterator[Case]:
    """Yield the cases of *found* whose answer has a member or a word that none before has."""
    seen = set[tuple[str, bytes]]()
    for case in found:
        words = re.findall(rb'"[A-Za-z_]{3,}"', case.answer[2])
        own = {(case.provider_type, word) for word in words}
        if own - seen:
            yield case
        seen |= own


CASES = [*unlike([case for case in cases() if (case.folder / "completion.json").exists()])]
STRANGE: tuple[Any, ...] = (None, 1, -1, True, "x", 1e300, [], {}, [1], {"a": 1}, [None], [{}])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside *value*."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


def check(result: bytes | dict[str, Any]) -> None:
    """Whatever came of it must be an answer by the rules."""
    if isinstance(result, dict):
        assert result["body"]["error"]["code"] != "internal_error"
        return
    events = sse.Decoder().receive_data(result)
    for event in events[:-1]:
        assert "error" not in json.loads(event.data)
    assert events[-1].data == "[DONE]" or "error" in json.loads(events[-1].data)


def lines_of(case: Case) -> list[bytes]:
    return case.answer[2].splitlines(keepends=True)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.provider_type != "bedrock"], ids=lambda case: case.id
)
def test_any_member_may_be_anything(case: Case) -> None:
    chance = random.Random(case.id)
    lines = lines_of(case)
    for number, line in enumerate(lines):
        prefix = b"data: " if line.startswith(b"data: ") else b""
        text = line[len(prefix) :].strip()
        if not text.startswith(b"{"):
            continue
        for path in places(json.loads(text)):
            for strange in chance.sample(STRANGE, 2):
                value = json.loads(text)
                put(value, path, strange)
                changed = prefix + json.dumps(value).encode() + line[len(line.rstrip()) :]
                body = b"".join([*lines[:number], changed, *lines[number + 1 :]])
                check(outcome(case, [body]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_any_byte_may_be_any_other(case: Case) -> None:
    chance = random.Random(case.id)
    for _ in range(30):
        body = bytearray(case.answer[2])
        for _ in range(chance.randint(1, 3)):
            body[chance.randrange(len(body))] = chance.choice(b'{}[]":,\n\r \x00\xff\xc30a')
        check(outcome(case, [bytes(body)]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_answer_may_end_anywhere(case: Case) -> None:
    """A part of an answer is complete only if nothing but usage was still to come."""
    body = case.answer[2]
    whole = outcome(case)
    assert isinstance(whole, bytes)
    for end in range(0, len(body), max(1, len(body) // 80)):
        result = outcome(case, [body[:end]])
        check(result)
        if isinstance(result, bytes) and result.endswith(sse.DONE):
            assert finishes(result) == finishes(whole)


def finishes(stream: bytes) -> list[tuple[int, str]]:
    chunks = [json.loads(event.data) for event in sse.Decoder().receive_data(stream)[:-1]]
    return [
        (choice["index"], choice["finish_reason"])
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["finish_reason"]
    ]
