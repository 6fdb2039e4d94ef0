"""Long strings replaced by marks while a body is parsed: same result, less memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import traced

from choreo_wsgi.chat import cutting, longtext
from choreo_wsgi.chat import request as chat
from choreo_wsgi.chat.cutting import shorten
from choreo_wsgi.chat.items import dump
from choreo_wsgi.chat.longtext import WINDOW, new_mark, original_offset, restore
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import ChoreoError, InvalidRequest
from choreo_wsgi.providers.openai.relay import EventRelay

SIZE = 3_000_000
#: Contents of JSON strings of 3 MB, as the bytes are sent.
LONG = {
    "plain": b"x" * SIZE,
    "one emoji": "\U0001f600".encode() + b"x" * SIZE,
    "one emoji at the end": b"x" * SIZE + "\U0001f600".encode(),
    "one escaped emoji": rb"\ud83d\ude00" + b"x" * SIZE,
    "chinese": "字".encode() * (SIZE // 3),
    "escapes": rb"\n" * (SIZE // 2),
    "quotes": rb"\"" * (SIZE // 2),
    "pairs": rb"\ud83d\ude00" * (SIZE // 12),
}
EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":"%b"},"finish_reason":null}]}\n\n'
)

texts = st.lists(
    st.sampled_from(
        ["a", "\\", '"', "\n", "é", "字", "😀", "\t", "u", "d83d", "\\u", "/", "b" * 30]
    )
).map("".join)
numbers = st.lists(
    st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False)),
    min_size=4,
)
documents = st.recursive(
    texts | st.integers() | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


def shortened(text: bytes, window: int, cut: int) -> tuple[bytes, longtext.Marks]:
    """Shorten *text*, keeping only 8 bytes of the head of a string."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_HEAD", 8)
        return shorten(text, window, cut)


@given(documents, st.booleans(), st.integers(8, 40), st.integers(1, 40))
def test_restore_undoes_shorten(value: Any, ascii: bool, window: int, cut: int) -> None:
    """For any window boundary, also after parsing and dumping the shortened text.

    16 bytes precede the text, as they precede the end of every string long enough to be cut.
    """
    text = b" " * 16 + json.dumps(value, ensure_ascii=ascii).encode()
    short, marks = shortened(text, window, cut)
    assert restore(short, marks) == text
    for mark, inside in marks.items():
        assert json.loads(b'"%b"' % inside if mark.startswith(b"~") else b"[%b]" % inside)
    assert json.loads(restore(dump(json.loads(short)), marks)) == value


fragments = st.lists(
    st.sampled_from(
        [b"1,", b"2 ,", b"-0.5,", b"01,", b"-,", b"1e9,", b"[", b"]", b"{", b'"', b":", b",", b"1"]
    )
)


@given(st.binary(max_size=300) | fragments.map(b"".join), st.integers(8, 40), st.integers(1, 40))
def test_shorten_preserves_validity(text: bytes, window: int, cut: int) -> None:
    for data in (
        text,
        b'"' + text,
        b'"' + text + b'"',
        b"[" + text + b"1]",
        b'{"a":[' + text + b"1]}",
    ):
        short, marks = shortened(data, window, cut)
        assert restore(short, marks) == data
        try:
            json.loads(data.decode())
            valid = True
        except ValueError:
            valid = False
        try:
            json.loads(short.decode())
            short_is_valid = True
        except ValueError:
            short_is_valid = False
        assert short_is_valid == valid


def test_invalid_escape_is_not_completed_by_a_mark() -> None:
    text = rb'"\u12a\n' + b"x" * 100 + b'"'
    short, marks = shortened(text, 9, 9)
    assert marks and restore(short, marks) == text
    with pytest.raises(ValueError, match="escape"):
        json.loads(short)


def test_mark_used_twice_is_restored_twice() -> None:
    short, marks = shorten(json.dumps(["x" * 4 * WINDOW, "y" * 4 * WINDOW, 1]).encode())
    assert len(short) < 5 * WINDOW and len(marks) == 2
    first, second, _ = json.loads(short)
    assert json.loads(restore(dump([second, first, second]), marks)) == [
        letter * 4 * WINDOW for letter in "yxy"
    ]


def test_unknown_mark_is_kept_as_text() -> None:
    short, marks = shorten(json.dumps(["x" * 4 * WINDOW]).encode())
    forged = dump([new_mark(), *json.loads(short)])
    ((mark, inside),) = marks.items()
    assert restore(forged, marks) == forged.replace(mark, inside)


def test_every_escape_can_be_cut_out() -> None:
    for escape in (rb"\n", rb"\t", rb"\r", rb"\/", rb"\b", rb"\f", rb"\"", rb"\\", rb"\u00e9"):
        short, marks = shorten(b'"%b"' % (escape * 3 * WINDOW))
        assert marks and len(short) < 3 * WINDOW, escape


@pytest.mark.parametrize("escape", [rb"\\n", rb"\u00e9", "é".encode()])
def test_no_escape_is_split(escape: bytes) -> None:
    """Neither at the start nor at the end of the part cut out."""
    for shift in range(12):
        short, marks = shorten(b'"%b%b"' % (b"x" * shift, escape * WINDOW))
        parts = [json.loads(b'"%b"' % inside) for inside in marks.values()]
        assert parts and json.loads(short)[:shift] == "x" * shift
        assert set("".join(parts)) == set(json.loads(b'"%b"' % escape))


def test_long_list_without_strings_is_not_cut() -> None:
    value = ["x" * 4 * WINDOW, [None] * WINDOW, "y" * 4 * WINDOW]
    short, marks = shorten(json.dumps(value).encode())
    assert len(marks) == 2 and json.loads(short)[1] == value[1]


@pytest.mark.parametrize("kind", LONG)
def test_forwarded_request_needs_little_memory(kind: str) -> None:
    """The received and the sent body, but no third copy, however wide the characters."""
    body = b'{"model":"m","messages":[{"role":"user","content":"' + LONG[kind] + b'"}]}'
    with traced() as memory:
        request = chat.parse(body)
        sent = restore(dump({**request.body, "model": "other"}), request.marks)
    assert memory.peak < 2.2 * len(body)  # a text with backslashes is searched for lone surrogates
    assert json.loads(sent) == {**json.loads(body), "model": "other"}
    whole = request.whole()
    assert whole.messages == whole.body["messages"] == json.loads(body)["messages"]
    assert whole.last_user_text == json.loads(body)["messages"][0]["content"]


@pytest.mark.parametrize(
    ("kind", "model", "parts"),
    [
        ("plain", "", False),
        ("one emoji", "", False),
        ("pairs", "", False),
        ("one emoji", "other", False),
        ("one emoji", "", True),
    ],
)
def test_relayed_event_needs_little_memory(kind: str, model: str, parts: bool) -> None:
    """The event, its JSON and the frame."""
    event = EVENT % LONG[kind]
    if parts:
        event = event.replace(b'"content":"', b'"content":[{"type":"text","text":"')
        event = event.replace(b'"},"finish_reason"', b'"}]},"finish_reason"')
    relay = EventRelay(Normaliser(model=model))
    frames = []
    with traced() as memory:
        for at in range(0, len(event), 128 * 1024):
            frames.append(relay.receive_data(event[at : at + 128 * 1024]))
    assert memory.peak < 3.3 * len(event)
    (frame,) = filter(None, frames)
    expected = json.loads(EVENT[6:] % LONG[kind])
    assert json.loads(frame[6:]) == {**expected, "model": model or "m"}


@pytest.mark.parametrize(
    "event",
    [
        '{"choices":[{"delta":{"content":{"answer":"%s"}}}]}',
        '{"choices":[{"delta":{"content":[{"type":"text","text":"%s"}]}}]}',
        '{"choices":[{"delta":{"content":["a",{"type":"image","text":"%s"},{"x":"%s"}]}}]}',
        '{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.text","text":"%s"}]}}]}',
        '{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.text","text":["%s"]}]}}]}',
        '{"choices":[{"delta":{"thinking":"%s"}}]}',
        '{"choices":[{"delta":{"content":"%s"},"finish_reason":"stop"}]}',
        '{"choices":[{"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}]}',
        '{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":\\"%s\\"}"}}]}}]}',
        '{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":{"a":"%s"}}}]}}]}',
        '{"x":"%s","choices":[{"delta":{"content":"a"}}]}',
        '{"choices":[],"x":"%s"}',
        '{"error":{"message":"%s"}}',
    ],
)
def test_long_event_is_relayed_like_others(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the normaliser changes it: strings that it reads are not cut out."""
    stream = b"data: " + event.replace("%s", "é\\n" * 100_000).encode() + b"\n\n"
    stream += b'data: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'

    def relay() -> tuple[bytes, str]:
        normaliser = Normaliser(1, {"id": "i", "created": 1}, "r", new_id=lambda: "c")
        relay, frames = EventRelay(normaliser), b""
        try:
            return relay.receive_data(stream + b"data: [DONE]\n\n") + relay.end(), ""
        except ChoreoError as error:
            return frames, error.message

    shortened = relay()
    monkeypatch.setattr("choreo_wsgi.providers.openai.relay.LONG", len(stream))
    assert shortened == relay()


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (b'",}', "line 2, column 40000[34]"),  # Python >= 3.13 points to the comma
        (b'\xff"}', "byte 400003 is wrong"),
        (b'","x":1,"x":2}', "two members named 'x'"),
    ],
)
def test_error_position_is_that_of_the_original_body(end: bytes, message: str) -> None:
    body = b'{\n"a":"' + b"x" * 399_996 + end
    for load in (chat.loads, chat.loads_marked):
        with pytest.raises(InvalidRequest, match=message):
            load(body)


def test_original_offset_maps_positions_after_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(["x" * 300, "é" * 300, 1]).encode()
    monkeypatch.setattr(cutting, "_HEAD", 1)
    short, marks = shorten(text, 16, 8)
    assert len(marks) == 2
    at = short.index(b", 1]")
    assert text[original_offset(short, marks, at) :] == b", 1]"
    assert original_offset(short, marks, 1) == 1


@pytest.mark.parametrize("scheme", ["file", r"\u0066ile", r"f\u0069le", r"\u0020" * 50 + "file"])
def test_mark_does_not_hide_a_file_url(scheme: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:///" + "x" * 300_000}}
    body = dump({"model": "m", "messages": [{"role": "user", "content": [image]}]})
    assert chat.parse(body).marks
    with pytest.raises(InvalidRequest, match="file: URL"):
        chat.parse(body.replace(b"data", scheme.encode(), 1))


def test_long_stop_string_is_restored() -> None:
    stop = ["y" * 3000, "\U0001f600" + "x" * 200, "z"]
    messages = [{"role": "user", "content": "x" * 300_000}]
    request = chat.parse(dump({"model": "m", "messages": messages, "stop": stop}))
    assert request.marks and request.whole().stop == tuple(stop)


def test_long_model_name_is_rejected() -> None:
    body = json.dumps({"model": "m" * 300_000, "messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(InvalidRequest, match="at most 256 characters"):
        chat.parse(body.encode())


def test_view_of_a_text_is_shortened_without_a_copy() -> None:
    text = memoryview(b'["%b"]' % (b"y" * 3_000_000))
    with traced() as memory:
        short, marks = shorten(text)
        assert len(short) < 1_000 and len(marks) == 1
    assert memory.peak < 500_000
    assert shorten(text[:50])[0] == bytes(text[:50])
