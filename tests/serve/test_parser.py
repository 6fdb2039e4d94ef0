"""The parser reads ordinary requests as waitress does, and leaves all others to it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from waitress.adjustments import Adjustments
from work import traced

from choreo_wsgi.serve.parser import SMALL, Parser

ADJUSTMENTS = Adjustments(listen="127.0.0.1:1")


class Slow(Parser):
    """Leaves every head to waitress."""

    def _parse_ordinary(self, data: bytes) -> int:
        return 0


LINES = [
    *("GET / HTTP/1.1", "GET / HTTP/1.0", "POST /v1/chat/completions HTTP/1.1", "HEAD /a HTTP/1.1"),
    *(
        "GET /a?x=1&y=%20 HTTP/1.1",
        "GET /? HTTP/1.1",
        "GET /?a?b HTTP/1.1",
        "GET /_-~.x?/:,+ HTTP/1.1",
    ),
    *("GET /a//b/../c HTTP/1.1", "GET //a HTTP/1.1", "GET /a%20b HTTP/1.1", "GET /?a#b HTTP/1.1"),
    *("GET /a:b HTTP/1.1", "GET http://x/ HTTP/1.1", "OPTIONS * HTTP/1.1", "GET /?a[b] HTTP/1.1"),
    *("get / HTTP/1.1", "GET / HTTP/1.2", "GET / HTTP/2.0", "GET /", "GET  / HTTP/1.1", "GET"),
    *("GET / HTTP/1.1 ", "\r\nGET / HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /\x0b HTTP/1.1"),
]
FIELDS = [
    *("Host: a", "Host:", "host: b", "X-Y:  a\t ", "X_Y: b", "x-y: c", "X: a b", "X!: a"),
    *("Content-Length: 4", "content-length: 4", "Content-Length: 04", "Content-Length: 4 "),
    *("Content-Length: +4", "Content-Length: 4, 4", "Content-Length:", "Content-Length: 1_0"),
    *("Content-Length: -1", "Content-Length: 0x4", "Content-Length: \xb2", "Content-Length: 0"),
    *(f"Content-Length: {SMALL + 1}", "Content_Length: 5", "Content-Length : 4"),
    *("Transfer-Encoding: chunked", "transfer-ENCODING: Chunked", "Transfer-Encoding:"),
    *(
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
        "Transfer_Encoding: chunked",
    ),
    *("Transfer-Encoding : chunked", "Transfer-Encoding: \x0bchunked"),
    *("Expect: 100-continue", "Connection: close", "Connection: keep-alive, x"),
    *(
        " folded",
        "\tfolded",
        "X: \xe9",
        "X: a\x0bb",
        "X:a\x00",
        "X: a\rb",
        "X: a\nb",
        ": a",
        "X",
        "",
    ),
    "X: " + "y" * 20_000,
]
BODIES = ["", "abcd", "abcdGET /second HTTP/1.1\r\n\r\n", "4\r\nabcd\r\n0\r\n\r\n"]


def read(kind: type[Parser], data: bytes, cuts: Sequence[int] = ()) -> tuple[Any, ...]:
    """Return everything of the parsed *data* that an application or an error reply uses."""
    parser = kind(ADJUSTMENTS, lambda request: True)
    used = 0
    for start, end in itertools.pairwise([0, *cuts, len(data)]):
        piece = data[start:end]
        while piece and not parser.completed:
            consumed = parser.received(piece)
            used += consumed
            piece = piece[consumed:]
    error = parser.error and (type(parser.error), parser.error.body)
    whole = parser.completed and error is None
    return (
        *(parser.completed, parser.empty, parser.expect_continue, error, used),
        *(parser.command, parser.path, parser.query, parser.version),
        parser.headers,
        parser.get_body_stream().read() if whole else None,
    )


def check_same(data: bytes, cuts: Sequence[int] = ()) -> None:
    assert read(Parser, data, cuts) == read(Slow, data, cuts), (data, cuts)


@pytest.mark.parametrize("line", LINES)
def test_parses_each_line_and_field_like_waitress(line: str) -> None:
    for field, body in itertools.product(FIELDS, BODIES):
        check_same(f"{line}\r\n{field}\r\n\r\n{body}".encode("latin-1"))


def test_parses_random_fields_cut_anywhere_like_waitress() -> None:
    chance = random.Random(7)
    for _ in range(5000):
        fields = chance.sample(FIELDS, chance.randint(0, 4))
        head = "\r\n".join([chance.choice(LINES), *fields])
        data = f"{head}\r\n\r\n{chance.choice(BODIES)}".encode("latin-1")
        most = min(3, len(data) - 1)
        check_same(data, sorted(chance.sample(range(1, len(data)), chance.randint(0, most))))


@pytest.mark.parametrize("spoilt", [b"\r", b"\n", b"\0", b"\x0b", b"\x80", b" ", b":", b"\t", b"_"])
def test_parses_one_wrong_byte_like_waitress(spoilt: bytes) -> None:
    good = b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Y: z\r\n\r\nabcd"
    for at in range(len(good)):
        check_same(good[:at] + spoilt + good[at:])
        check_same(good[:at] + spoilt + good[at + 1 :])


def test_reads_usual_requests_without_waitress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waitress's own ``received`` is not called."""
    monkeypatch.delattr("waitress.parser.HTTPRequestParser.received")
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n"
        b"Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n"
        b"User-Agent: OpenAI/Python 1.99.9\r\nX-Stainless-Lang: python\r\n"
        b"Authorization: Bearer sk-1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    for size in (0, 1, SMALL):
        for cuts in ((), (len(head % size),), (len(head % size) + 1,) if size else ()):
            found = read(Parser, head % size + b"x" * size, cuts)
            assert found[0] and found[3] is None and found[-1] == b"x" * size


def test_does_not_cache_long_heads() -> None:
    """The lines of short ones are cached, as many clients send the same lines."""
    with traced() as memory:
        for number in range(300):
            parser = Parser(ADJUSTMENTS, lambda parser: True)
            parser.received(b"GET / HTTP/1.1\r\nX: %015000d\r\n\r\n" % number)
            assert parser.headers["X"]
            parser.close()
        assert memory.now < 1_000_000


@pytest.mark.parametrize(
    ("head", "is_sound"),
    [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n", True),
        ("GET /healthz HTTP/1.1\r\nHost: [::1]:8000\r\n", True),
        ("GET /healthz HTTP/1.1\r\nHost:\r\n", True),
        ("GET /healthz HTTP/1.0\r\n", True),
        ("GET /healthz HTTP/1.1\r\n", False),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nhost: a\r\n", False),
        ("GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n", False),
        ("GET /healthz HTTP/1.1\r\nHost: a, b\r\n", False),
        ("GET /healthz HTTP/1.1\r\nHost: a/b\r\n", False),
        ("GET /healthz HTTP/1.1\r\nHost: u@a\r\n", False),
        ("GET http://a/healthz HTTP/1.1\r\nX: y\r\n", False),
    ],
)
def test_requires_exactly_one_valid_host(head: str, is_sound: bool) -> None:
    """RFC 9112, section 3.2."""
    completed, _, _, error, *_ = read(Parser, f"{head}\r\n".encode())
    assert completed and (error is None) == is_sound
    assert is_sound or "Host" in error[1]
