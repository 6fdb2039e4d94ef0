"""The framings of bodies, split at any byte: chunked, sized, until close."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_server import chunk

from choreo_wsgi.upstream.framing import (
    Chunked,
    Framing,
    FramingError,
    Sized,
    Truncated,
    UntilClose,
)

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
BODIES = {
    "events": b"".join(map(chunk, [EVENT, EVENT * 3, EVENT])) + b"0\r\n\r\n",
    "data with CRLF": chunk(b"a\r\nb\r\n\r\n") + chunk(b"\r\n") + b"0\r\n\r\n",
    "extensions": b'5;name="v"\r\nhello\r\n005 ; x\r\nworld\r\n0;last\r\n\r\n',
    "trailer": chunk(b"hello") + b"0\r\nExpires: never\r\nX: y\r\n\r\n",
    "upper case": b"A\r\n0123456789\r\n0a\r\n0123456789\r\n0\r\n\r\n",
    "a chunk as data": chunk(chunk(b"hello")) + b"0\r\n\r\n",
    "nothing": b"0\r\n\r\n",
}
CONTENT = {
    "events": EVENT * 5,
    "data with CRLF": b"a\r\nb\r\n\r\n\r\n",
    "extensions": b"helloworld",
    "trailer": b"hello",
    "upper case": b"0123456789" * 2,
    "a chunk as data": chunk(b"hello"),
    "nothing": b"",
}


def feed(framing: Framing, *pieces: bytes) -> bytes:
    body = b""
    for piece in pieces:
        body += framing.feed(piece)
        if framing.error is not None:
            raise framing.error
    return body


@pytest.mark.parametrize("name", BODIES)
def test_chunks_split_anywhere_give_the_same_body(name: str) -> None:
    raw = BODIES[name]
    for at in range(len(raw) + 1):
        framing = Chunked()
        assert feed(framing, raw[:at], raw[at:]) == CONTENT[name], at
        assert framing.done and not framing.excess
        framing.end()


@pytest.mark.parametrize("name", BODIES)
def test_decodes_chunks_one_byte_at_a_time(name: str) -> None:
    raw, framing, body = BODIES[name], Chunked(), b""
    for at in range(len(raw)):
        assert not framing.done
        body += feed(framing, raw[at : at + 1])
    assert framing.done and body == CONTENT[name]


@given(
    st.lists(st.binary(min_size=1, max_size=40) | st.just(EVENT), max_size=12),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_decodes_random_chunks_split_at_random(chunks: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(map(chunk, chunks)) + b"0\r\n\r\n"
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    framing = Chunked()
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert feed(framing, *pieces) == b"".join(chunks)
    assert framing.done


@pytest.mark.parametrize("name", BODIES)
def test_chunks_cut_anywhere_are_truncated(name: str) -> None:
    raw = BODIES[name]
    for at in range(len(raw)):
        framing = Chunked()
        assert CONTENT[name].startswith(feed(framing, raw[:at]))
        with pytest.raises(Truncated):
            framing.end()


@pytest.mark.parametrize(
    "bad",
    [b"", b"0x5", b" 5", b"123456789", b"000000005", b"5\n"],
)
def test_rejects_sizes_that_are_not_hex_digits(bad: bytes) -> None:
    framing = Chunked()
    body = framing.feed(chunk(b"good") + bad + b"\r\nhello\r\n0\r\n\r\n")
    assert body == b"good"  # the bytes before the failure are not lost
    assert isinstance(framing.error, FramingError)


@pytest.mark.parametrize("data", [b"3\r\nabcdef\r\n0\r\n\r\n", b"3\r\nabcXX"])
def test_rejects_a_chunk_longer_than_its_size(data: bytes) -> None:
    framing = Chunked()
    framing.feed(data)
    assert isinstance(framing.error, FramingError)


@pytest.mark.parametrize("endless", [b"5;" + b"x" * 5000, b"0\r\n" + b"x" * 5000])
def test_rejects_endless_lines(endless: bytes) -> None:
    framing = Chunked()
    framing.feed(endless)
    assert isinstance(framing.error, FramingError)


def test_rejects_an_endless_trailer() -> None:
    framing = Chunked()
    framing.feed(b"0\r\n" + b"X: y\r\n" * 20000)
    assert isinstance(framing.error, FramingError)


def test_trailer_may_look_like_a_chunk() -> None:
    framing = Chunked()
    assert feed(framing, b"0\r\n", b"5\r\nhello\r\n") == b"" and not framing.done
    assert feed(framing, b"\r\n") == b"" and framing.done


def test_bytes_after_the_end_are_excess() -> None:
    framing = Chunked()
    assert framing.feed(chunk(b"all") + b"0\r\n\r\nHTTP/1.1 200") == b"all"
    assert framing.done and framing.excess


def test_number_of_remembered_sizes_is_bounded() -> None:
    framing = Chunked()
    for size in range(1, 6000):
        assert len(framing.feed(chunk(b"x" * size))) == size
    assert len(framing.sizes) <= 4097


def test_sized_body_ends_after_its_length() -> None:
    framing = Sized(5)
    assert feed(framing, b"he", b"llo!") == b"hello"
    assert framing.done and framing.excess
    short = Sized(5)
    short.feed(b"hell")
    with pytest.raises(Truncated):
        short.end()


def test_body_without_length_ends_with_its_connection() -> None:
    framing = UntilClose()
    assert feed(framing, b"a", b"b") == b"ab"
    assert not framing.done
    framing.end()
    assert framing.done
