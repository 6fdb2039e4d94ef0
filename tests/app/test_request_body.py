"""``read_body`` and ``request_id`` with the environs of various servers."""

from __future__ import annotations

import gc
import io
import threading
from typing import Any

import pytest
from harness import DEADLINE

from choreo_wsgi.app.request import read_body, request_id, while_parsing
from choreo_wsgi.errors import BodyTooLarge, InvalidRequest, LengthRequired, UnsupportedMediaType
from choreo_wsgi.settings import Settings

SETTINGS = Settings(max_body_bytes=1024)


class Pieces(io.RawIOBase):
    """An input that returns few bytes per read, and rejects a read without a size."""

    def __init__(self, data: bytes, at_once: int = 3) -> None:
        self._data = data
        self._at_once = at_once

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "a read without a size waits for the end of the connection"
        taken = self._data[: min(size, self._at_once)]
        self._data = self._data[len(taken) :]
        return taken

    @property
    def left(self) -> bytes:
        return self._data


class Broken(io.RawIOBase):
    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:
        raise self._error


def environ(body: Any = b"", **variables: Any) -> dict[str, Any]:
    source = io.BytesIO(body) if isinstance(body, bytes) else body
    return {"CONTENT_TYPE": "application/json", "wsgi.input": source, **variables}


def test_body_with_a_content_length_is_read() -> None:
    assert read_body(environ(b"{}", CONTENT_LENGTH="2"), SETTINGS) == b"{}"


def test_read_stops_at_the_content_length() -> None:
    source = Pieces(b"0123456789GET / HTTP/1.1")
    assert read_body(environ(source, CONTENT_LENGTH="10"), SETTINGS) == b"0123456789"
    assert source.left == b"GET / HTTP/1.1"


def test_content_length_zero_is_an_empty_body() -> None:
    assert read_body(environ(b"", CONTENT_LENGTH="0"), SETTINGS) == b""


def test_terminated_chunked_body_is_read_to_its_end() -> None:
    variables = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert read_body(environ(Pieces(b"x" * 1000), **variables), SETTINGS) == b"x" * 1000
    # A Content-Length beside chunked is ignored (RFC 9112, 6.3).
    assert read_body(environ(b"{}", CONTENT_LENGTH="1", **variables), SETTINGS) == b"{}"


def test_terminated_input_needs_no_length() -> None:
    assert read_body(environ(b"{}", **{"wsgi.input_terminated": True}), SETTINGS) == b"{}"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"CONTENT_LENGTH": ""},
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "2"},
    ],
)
def test_unterminated_input_without_length_is_rejected_unread(variables: dict[str, str]) -> None:
    source = Pieces(b"{}")
    with pytest.raises(LengthRequired):
        read_body(environ(source, **variables), SETTINGS)
    assert source.left == b"{}"


def test_empty_terminated_input_is_rejected() -> None:
    with pytest.raises(LengthRequired):
        read_body(environ(b"", **{"wsgi.input_terminated": True}), SETTINGS)


@pytest.mark.parametrize(
    "length",
    ["+2", "2 ", "0x2", "1_0", "2,2", "\u0662", "9" * 5000],
)
def test_invalid_content_length_is_rejected_unread(length: str) -> None:
    source = Pieces(b"{}")
    with pytest.raises(InvalidRequest, match="Content-Length") as caught:
        variables = {"wsgi.input_terminated": True, "CONTENT_LENGTH": length}
        read_body(environ(source, **variables), SETTINGS)
    assert caught.value.status == 400
    assert source.left == b"{}"


def test_body_shorter_than_its_length_is_rejected() -> None:
    for terminated in (True, False):
        with pytest.raises(InvalidRequest, match="ended after 2 of the 10 bytes"):
            variables = {"wsgi.input_terminated": terminated, "CONTENT_LENGTH": "10"}
            read_body(environ(Pieces(b"{}"), **variables), SETTINGS)


class InvalidChunkSize(Exception):
    """As raised by gunicorn: not an OSError, and not importable by us."""


@pytest.mark.parametrize("error", [OSError("gone"), InvalidChunkSize("zz"), ValueError("closed")])
def test_failing_input_returns_400(error: Exception) -> None:
    with pytest.raises(InvalidRequest, match="could not be read"):
        read_body(environ(Broken(error), CONTENT_LENGTH="10"), SETTINGS)


def test_body_of_exactly_max_body_bytes_is_read() -> None:
    whole = b"x" * 1024
    assert read_body(environ(whole, CONTENT_LENGTH="1024"), SETTINGS) == whole
    assert read_body(environ(whole, **{"wsgi.input_terminated": True}), SETTINGS) == whole


def test_content_length_above_the_limit_is_rejected_unread() -> None:
    source = Pieces(b"{}")
    for length in ("1025", "9" * 18):
        with pytest.raises(BodyTooLarge, match="1024"):
            read_body(environ(source, CONTENT_LENGTH=length), SETTINGS)
    assert source.left == b"{}"


def test_chunked_body_is_read_at_most_one_byte_past_the_limit() -> None:
    source = Pieces(b"x" * 100_000, at_once=1000)
    with pytest.raises(BodyTooLarge):
        read_body(environ(source, **{"wsgi.input_terminated": True}), SETTINGS)
    assert len(source.left) == 100_000 - 1025


@pytest.mark.parametrize(
    "type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json ;",
    ],
)
def test_json_content_types_are_accepted(type: str) -> None:
    assert read_body(environ(b"{}", CONTENT_LENGTH="2", CONTENT_TYPE=type), SETTINGS) == b"{}"


@pytest.mark.parametrize(
    "type",
    [
        "",
        "text/plain;charset=UTF-8",  # fetch with a string
        "application/x-www-form-urlencoded",  # curl -d
        "application/json, text/plain",
        "application/vnd.api+json",
        "text/plain; application/json",
        "x" * 5000,
    ],
)
def test_other_content_types_are_rejected(type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType, match="-H 'Content-Type: application/json'") as caught:
        read_body(environ(b"{}", CONTENT_LENGTH="2", CONTENT_TYPE=type), SETTINGS)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("coding", ["gzip", "identity, gzip"])
def test_compressed_bodies_are_rejected(coding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        read_body(environ(b"{}", CONTENT_LENGTH="2", HTTP_CONTENT_ENCODING=coding), SETTINGS)
    plain = environ(b"{}", CONTENT_LENGTH="2", HTTP_CONTENT_ENCODING="Identity")
    assert read_body(plain, SETTINGS) == b"{}"


@pytest.mark.parametrize("given", ["!~", "a" * 128])
def test_valid_request_id_is_kept(given: str) -> None:
    assert request_id({"HTTP_X_REQUEST_ID": given}) == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\n", "caf\xe9", "\x7f"])
def test_invalid_request_ids_are_replaced(given: str) -> None:
    made = request_id({"HTTP_X_REQUEST_ID": given})
    assert made.startswith("req_") and made.isascii() and made.isprintable()
    assert made != request_id({"HTTP_X_REQUEST_ID": given})
    assert request_id({}) != request_id({})


def test_large_bodies_are_parsed_one_at_a_time_without_the_collector() -> None:
    assert gc.isenabled()
    entered = threading.Event()

    def second() -> None:
        with while_parsing(1_000_000):
            entered.set()

    with while_parsing(1_000_000):
        assert not gc.isenabled()
        thread = threading.Thread(target=second)
        thread.start()
        with while_parsing(1000):  # small ones do not wait
            assert not entered.is_set()
    assert entered.wait(DEADLINE)
    thread.join()
    assert gc.isenabled()


def test_disabled_collector_stays_disabled() -> None:
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError), while_parsing(1_000_000):
            raise ZeroDivisionError
        assert not gc.isenabled()
    finally:
        gc.enable()
