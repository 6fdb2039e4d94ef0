"""Damaged answers: the client receives a provider's error, never an internal one."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from corpus_cases import Case, cases, outcome

from choreo_wsgi import sse


def distinct(found: list[Case]) -> Iterator[Case]:
    """Yield the cases whose answer has a name or a word that none before it has."""
    seen = set[tuple[str, bytes]]()
    for case in found:
        words = re.findall(rb'"[A-Za-z_]{3,}"', case.answer[2])
        own = {(case.provider_type, word) for word in words}
        if own - seen:
            yield case
        seen |= own


CASES = [*distinct([case for case in cases() if (case.folder / "completion.json").exists()])]
STRANGE: tuple[Any, ...] = (None, 1, -1, True, "x", 1e300, [], {}, [1], {"a": 1}, [None], [{}])


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside *value*."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from paths(value[index], (*path, index))


def replace_at(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for step in path[:-1]:
        value = value[step]
    value[path[-1]] = new


def check(result: bytes | dict[str, Any]) -> None:
    """Check that the *result* is a valid stream, or a provider's error."""
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
def test_survives_any_value_in_any_member(case: Case) -> None:
    rng = random.Random(case.id)
    lines = lines_of(case)
    for number, line in enumerate(lines):
        prefix = b"data: " if line.startswith(b"data: ") else b""
        text = line[len(prefix) :].strip()
        if not text.startswith(b"{"):
            continue
        for path in paths(json.loads(text)):
            for strange in rng.sample(STRANGE, 2):
                value = json.loads(text)
                replace_at(value, path, strange)
                changed = prefix + json.dumps(value).encode() + line[len(line.rstrip()) :]
                body = b"".join([*lines[:number], changed, *lines[number + 1 :]])
                check(outcome(case, [body]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_survives_changed_bytes(case: Case) -> None:
    rng = random.Random(case.id)
    for _ in range(30):
        body = bytearray(case.answer[2])
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(len(body))] = rng.choice(b'{}[]":,\n\r \x00\xff\xc30a')
        check(outcome(case, [bytes(body)]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_survives_an_end_at_any_byte(case: Case) -> None:
    """A cut answer is complete only if nothing but usage was missing."""
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
