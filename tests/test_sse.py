"""The bytes of Server-Sent Events, written and read: one table of cases for both."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import traced

from choreo_wsgi import sse
from choreo_wsgi.sse import Decoder, Event

# Frames that frame() writes and the decoder reads: data, id, bytes.
FRAMES = [
    ("{}", None, b"data: {}\n\n"),
    ('{"a":1}', None, b'data: {"a":1}\n\n'),
    ("[DONE]", None, b"data: [DONE]\n\n"),
    ("", None, b"data: \n\n"),
    (" two spaces", None, b"data:  two spaces\n\n"),
    (":no comment", None, b"data: :no comment\n\n"),
    ("data: nested", None, b"data: data: nested\n\n"),
    ("grüße 🌍 日本", None, "data: grüße 🌍 日本\n\n".encode()),
    (
        "\u2028 \u2029 \x85 \x0b \x0c \x1c",
        None,
        "data: \u2028 \u2029 \x85 \x0b \x0c \x1c\n\n".encode(),
    ),
    ("nul \0", None, b"data: nul \0\n\n"),
    ("\ufeffmark", None, "data: \ufeffmark\n\n".encode()),
    ("{}", 1, b"id: 1\ndata: {}\n\n"),
    ("[DONE]", 4711, b"id: 4711\ndata: [DONE]\n\n"),
]

# Bytes that only other servers write: name, bytes, events.
READ = [
    ("nothing", b"", []),
    ("blank lines", b"\n\n\r\r\r\n\r\n", []),
    ("comment", b": ping\n", []),
    ("comment and blank line", b": ping\n\n", []),
    ("comment between fields", b"data: a\n: ping\ndata: b\n\n", [Event("a\nb")]),
    ("comment between frames", b"data: a\n\n: ping\ndata: b\n\n", [Event("a"), Event("b")]),
    ("colon alone", b":\ndata: a\n\n", [Event("a")]),
    ("no space", b"data:a\n\n", [Event("a")]),
    ("one space is dropped", b"data:  a\n\n", [Event(" a")]),
    ("tab is kept", b"data:\ta\n\n", [Event("\ta")]),
    ("space before the colon", b"data : a\n\n", []),
    ("capitals", b"Data: a\n\n", []),
    ("indented", b" data: a\n\n", []),
    ("data without colon", b"data\n\n", [Event("")]),
    ("two without colon", b"data\ndata\n\n", [Event("\n")]),
    ("several lines", b"data: a\ndata:\ndata: b\n\n", [Event("a\n\nb")]),
    ("unknown fields", b"x: 1\ny\ndata: a\nz:\n\n", [Event("a")]),
    ("data-like names", b"data2: a\ndat: b\ndata: c\n\n", [Event("c")]),
    ("event name", b"event: add\ndata: a\n\ndata: b\n\n", [Event("a", "add"), Event("b")]),
    ("event name emptied", b"event: add\nevent\ndata: a\n\n", [Event("a")]),
    ("event without data", b"event: add\n\ndata: a\n\n", [Event("a")]),
    ("id is kept", b"id: 1\ndata: a\n\ndata: b\n\n", [Event("a", id="1"), Event("b", id="1")]),
    ("id without data", b"id: 1\n\ndata: b\n\n", [Event("b", id="1")]),
    ("id emptied", b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event("a", id="1"), Event("b")]),
    ("id with NUL", b"id: 1\nid: 2\0\ndata: a\n\n", [Event("a", id="1")]),
    ("id after data", b"data: a\nid: 7\n\n", [Event("a", id="7")]),
    ("cut within a line", b"data: a\n\ndata: b", [Event("a")]),
    ("cut before the blank line", b"data: a\n\ndata: b\n", [Event("a")]),
    ("byte order mark", b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    ("byte order mark later", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("a")]),
    ("half a byte order mark", b"\xef\xbbdata: a\n\ndata: b\n\n", [Event("b")]),
    ("byte order mark alone", b"\xef\xbb\xbf", []),
    ("invalid UTF-8", b"data: a\xff\xc3(\n\n", [Event("a\ufffd\ufffd(")]),
    ("a surrogate in UTF-8", b"data: \xed\xa0\x80\n\n", [Event("\ufffd\ufffd\ufffd")]),
    ("invalid UTF-8 in a comment", b": \xff\ndata: a\n\n", [Event("a")]),
    ("no Unicode line end", "data: a\u2028b\x0bc\x85d\n\n".encode(), [Event("a\u2028b\x0bc\x85d")]),
    ("CR", b"data: a\rdata: b\r\rdata: c\r\r", [Event("a\nb"), Event("c")]),
    ("CRLF", b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [Event("a\nb"), Event("c")]),
    ("LF CR", b"data: a\n\rdata: b\n\r", [Event("a"), Event("b")]),
    ("CR CRLF", b"data: a\r\r\ndata: b\r\r\n", [Event("a"), Event("b")]),
    ("CRLF LF CR", b"data: a\r\n\ndata: b\n\rdata: c\r\r\n\n",
     [Event("a"), Event("b"), Event("c")]),
    ("blank CRLF only", b"\r\n\r\ndata: a\r\n\r\n", [Event("a")]),
]  # fmt: skip

# WHATWG HTML 9.2.6, the examples in their order.
WHATWG = [
    ("three events", b"data: This is the first message.\n\ndata: This is the second message, it\n"
     b"data: has two lines.\n\ndata: This is the third message.\n\n",
     [Event("This is the first message."),
      Event("This is the second message, it\nhas two lines."),
      Event("This is the third message.")]),
    ("types",
     b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
     [Event("73857293", "add"), Event("2153", "remove"), Event("113411", "add")]),
    ("stock ticker", b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
    ("four blocks",
     b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
     b"data:  third event\n\n",
     [Event("first event", id="1"), Event("second event"), Event(" third event")]),
    ("two events, the last block is cut", b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
    ("two identical events", b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
]  # fmt: skip

TABLE = [
    *[
        (f"frame {data!r} {id}", written, [Event(data, id="" if id is None else str(id))])
        for data, id, written in FRAMES
    ],
    *READ,
    *[(f"WHATWG: {name}", block, events) for name, block, events in WHATWG],
]
CASES = [pytest.param(block, events, id=name) for name, block, events in TABLE]


def decode(*parts: bytes, **options: object) -> list[Event]:
    decoder = Decoder(**options)  # type: ignore[arg-type]
    return [event for part in parts for event in decoder.receive_data(part)]


@pytest.mark.parametrize(("data", "id", "written"), FRAMES)
def test_frame_writes_id_and_data(data: str, id: int | None, written: bytes) -> None:
    framed = sse.frame(data.encode())
    assert (framed if id is None else sse.number(framed, id)[0]) == written


def test_frame_writes_the_event_between_id_and_data() -> None:
    assert sse.frame(b"{}", event="ping") == b"event: ping\ndata: {}\n\n"
    assert sse.number(sse.frame(b"{}", event="ping"), 1)[0] == b"id: 1\nevent: ping\ndata: {}\n\n"


def test_count_is_the_number_of_frames() -> None:
    for frame in (sse.frame(b"{}"), b"id: 1\n" + sse.frame(b"{}"), sse.frame(b"{}", event="x")):
        assert [sse.count(frame * n) for n in (1, 2, 9)] == [1, 2, 9]
    assert sse.count(sse.number(sse.frame(b"{}") * 9, 95)[0]) == 9


@pytest.mark.parametrize(("block", "events"), CASES)
def test_decoder_reads_events_split_anywhere(block: bytes, events: list[Event]) -> None:
    """Byte by byte, at every split, at every two of a short block; with any line ends."""
    places = range(len(block) + 1)
    splits = (
        combinations_with_replacement(places, 2) if len(block) < 40 else ((a, a) for a in places)
    )
    for a, b in splits:
        assert decode(block[:a], block[a:b], block[b:]) == events, (a, b)
    blocks = (
        [block]
        if b"\r" in block
        else [block, block.replace(b"\n", b"\r"), block.replace(b"\n", b"\r\n")]
    )
    for other in blocks:
        assert decode(other) == events
        assert decode(*(other[at : at + 1] for at in range(len(other)))) == events


def test_event_is_returned_with_its_last_byte() -> None:
    decoder = Decoder()
    assert decoder.receive_data(b"data: a\n") == []
    assert decoder.pending
    assert decoder.receive_data(b"\n") == [Event("a")]
    assert not decoder.pending
    assert not Decoder().between_events  # a byte order mark may follow
    for block, between in ((b"event: x\n", False), (b"\n", True), (b"data: a\r\r", False)):
        decoder.receive_data(block)
        assert decoder.between_events is between
    assert decoder.receive_data(b"\n") == []
    # A CR ends the line at once, without waiting for an LF that may follow.
    assert decoder.receive_data(b"data: b\r\r") == [Event("b")]
    assert decoder.receive_data(b"\ndata: c\r\n\r") == [Event("c")]
    assert decoder.receive_data(b"\n") == []


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_frame_rejects_line_ends(line_end: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.frame(b"a" + line_end + b"data: b")


def test_done_ping_and_headers_are_fixed() -> None:
    assert sse.DONE == b"data: [DONE]\n\n"
    assert sse.PING == b": ping\n"
    assert sse.HEAD == (
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    )


def test_pings_between_frames_change_no_event() -> None:
    frames = [b"id: %d\n%b" % (n, sse.frame(b"%d" % n)) for n in range(1, 4)]
    silent = decode(b"".join(frames))
    assert decode(sse.PING, *(part for frame in frames for part in (frame, sse.PING))) == silent


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.encode), max_size=5
    ),
    st.integers(1, 10**12),
)
def test_number_returns_the_frames_with_ids(data: list[bytes], first: int) -> None:
    block = b"".join(map(sse.frame, data))
    numbered = b"".join(b"id: %d\n%b" % (first + n, sse.frame(item)) for n, item in enumerate(data))
    assert sse.number(block, first) == (numbered, len(data))


def test_long_frames_are_numbered_with_one_copy() -> None:
    block = sse.frame(b"1") + sse.frame(b"x" * 3_000_000, "a") + sse.frame(b"2")
    with traced() as memory:
        numbered, count = sse.number(block, 9)
    assert memory.peak < 1.2 * len(block)
    assert count == 3
    assert numbered == b"id: 9\ndata: 1\n\nid: 10\n%bid: 11\ndata: 2\n\n" % block[9:-9]


# -- ids and reconnection -----------------------------------------------------------------


def test_last_event_id_is_that_of_a_complete_event() -> None:
    """A client that resumed after an event that it never received would lose it."""
    decoder = Decoder()
    decoder.receive_data(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert decoder.last_event_id == "1"
    decoder.receive_data(b"\n")
    assert decoder.last_event_id == "2"
    decoder.receive_data(b"id: 3\n")
    assert decoder.last_event_id == "2"
    decoder.receive_data(b"data: c\n\n")
    assert decoder.last_event_id == "3"


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        (b"1500", 1500),
        (b"007", 7),
        (b"9" * 9, 999_999_999),
        (b"9" * 10, None),
        (b"+5", None),
        (b"1_000", None),
        (b"", None),
        ("٣".encode(), None),
        (b"9" * 5000, None),
    ],
)
def test_retry_accepts_ascii_digits_only(value: bytes, retry: int | None) -> None:
    decoder = Decoder()
    assert decoder.receive_data(b"retry: " + value + b"\n\n") == []
    assert decoder.retry == retry


def test_id_without_data_sets_last_event_id() -> None:
    """WHATWG HTML 9.2.6: the id is set before empty data are checked."""
    decoder = Decoder()
    assert decoder.receive_data(b"id: 7\n\n") == []
    assert decoder.last_event_id == "7"
    assert decoder.receive_data(b"data: x\n\n") == [Event("x", id="7")]


def test_unknown_lines_are_passed_to_a_subclass() -> None:
    class Curious(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[bytes] = []

        def unknown(self, line: bytes) -> None:
            self.seen.append(line)

    decoder = Curious()
    decoder.receive_data(b'{"error":1}\n: c\nid: 1\nretry: x\nid: \0\nevent: e\nx\ndata: a\n\n')
    assert decoder.seen == [b'{"error":1}', b"x"]


# -- limits and invalid bytes -------------------------------------------------------------------

LIMIT = 64
TOO_LARGE = {
    "one line": b"data: " + b"x" * 80 + b"\n\n",
    "a line without end": b"data: " + b"x" * 80,
    "a comment": b": " + b"x" * 80 + b"\n\n",
    "an unknown field": b"x" * 80 + b"\n\n",
    "many lines": b"data: x\n" * 10,
    "many lines without colon": b"data\n" * 17,
    "many empty lines of data": b"data:\n" * 13,
}


@pytest.mark.parametrize("block", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("step", [1, 1000])
def test_event_longer_than_the_limit_raises(block: bytes, step: int) -> None:
    decoder = Decoder(max_event_bytes=LIMIT)
    with pytest.raises(sse.EventTooLarge):
        for at in range(0, len(block), step):
            decoder.receive_data(block[at : at + step])


def test_limit_is_8_mib_by_default() -> None:
    line = b"data: " + b"x" * (8 * 1024 * 1024 - 6)
    assert len(decode(line, b"\n\n")) == 1
    with pytest.raises(sse.EventTooLarge):
        decode(line, b"x\n\n")


def test_only_long_lines_of_data_are_shortened() -> None:
    decoder = Decoder()
    decoder.shorten = lambda data: b"short"
    line = b"data: " + b"x" * (64 * 1024 - 6)
    assert decoder.receive_data(line + b"\n\n") == [Event(line[6:].decode())]
    assert decoder.receive_data(line + b"x\n\n") == [Event("short")]
    assert decoder.receive_data(b"event: e\ndata: x\n\n") == [Event("x", "e")]


@pytest.mark.parametrize("step", [1, 1000])
def test_limit_applies_to_each_event(step: int) -> None:
    block = (b"data: " + b"x" * 50 + b"\n\n: ping\n") * 20
    parts = [block[at : at + step] for at in range(0, len(block), step)]
    assert decode(*parts, max_event_bytes=LIMIT) == [Event("x" * 50)] * 20


def test_decode_error_has_the_events_before_it() -> None:
    block = b"data: a\n\ndata: b\n\ndata: " + b"x" * 80 + b"\n\n"
    with pytest.raises(sse.EventTooLarge) as raised:
        decode(block, max_event_bytes=LIMIT)
    assert raised.value.events == [Event("a"), Event("b")]
    with pytest.raises(sse.DecodeError) as wrong:
        decode(b"data: a\n\ndata: \xff\n\n", errors="strict")
    assert wrong.value.events == [Event("a")]


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x8c"])
def test_strict_decoding_rejects_invalid_utf8(bad: bytes) -> None:
    with pytest.raises(sse.DecodeError):
        decode(b"data: a" + bad + b"\n\n", errors="strict")
    assert "\ufffd" in decode(b"data: a" + bad + b"\n\n")[0].data


def test_character_split_anywhere_is_decoded() -> None:
    block = "data: 🌍é日\n\n".encode()
    for at in range(len(block)):
        assert decode(block[:at], block[at:], errors="strict") == [Event("🌍é日")]
