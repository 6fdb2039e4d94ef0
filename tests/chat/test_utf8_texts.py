"""Texts that are kept in UTF-8: what is written of them is valid JSON in UTF-8."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from choreo_wsgi.chat.growing import JsonText, base64_or_mark, utf8_or_mark
from choreo_wsgi.chat.items import Marks, dump
from choreo_wsgi.chat.jsontext import encoded
from choreo_wsgi.chat.longtext import restore

TEXTS = {
    "ascii": "x" * 2_000,
    "wide": "\u20ac\U0001f600" * 30_000,
    "escapes": "x" * 2_000 + '"\\\n\x00\x7f',
    "korean": "\ud55c\uad6d\uc5b4" * 1_000,
    "half a pair": "x" * 2_000 + "\ud83d" + "y\udc00",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_is_written_as_it_would_be_without_a_mark(text: str) -> None:
    marks: Marks = {}
    mark = utf8_or_mark(encoded(text), marks)
    assert mark != text
    assert restore(dump(mark), marks) == dump(text)
    assert b"".join(marks[mark.encode()].text({})) == encoded(text)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_arguments_are_written_as_they_are(text: str) -> None:
    arguments = bytearray(encoded(json.dumps({"a": text}, ensure_ascii=False)))
    written = b"".join(JsonText(arguments).escaped({}))
    assert json.loads(written.decode()) == {"a": text}


@pytest.mark.parametrize(("length", "marked"), [(1, 0), (85, 0), (86, 1), (300_000, 1)])
def test_base64_of_a_long_text_is_made_as_it_is_sent(length: int, marked: int) -> None:
    marks: Marks = {}
    text = "\u20ac" * length
    sent = restore(dump(base64_or_mark(text, marks)), marks)
    assert json.loads(sent) == b64encode(text.encode()).decode()
    assert len(marks) == marked
