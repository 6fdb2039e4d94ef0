"""Heads of requests and of answers, URLs, proxies."""

from __future__ import annotations

import pytest
from work import traced

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.upstream.address import Proxy, parse_url
from choreo_wsgi.upstream.framing import Chunked, FramingError, Sized, UntilClose
from choreo_wsgi.upstream.head import MAX_HEAD, head_end, parse_head, request_head, retry_after
from choreo_wsgi.version import __version__


def test_request_head_has_the_required_fields() -> None:
    head = request_head("POST", "/v1/x", "h:1", {"Authorization": "Bearer k"}, 3).decode()
    lines = head.split("\r\n")
    assert lines[0] == "POST /v1/x HTTP/1.1"
    assert {"Host: h:1", "Accept-Encoding: identity", "Content-Length: 3"} <= set(lines)
    assert {"Authorization: Bearer k", f"User-Agent: choreo-wsgi/{__version__}"} <= set(lines)
    assert head.endswith("\r\n\r\n")
    assert "Content-Length" not in request_head("GET", "/", "h", {}, 0).decode()
    assert "Content-Length: 0" in request_head("POST", "/", "h", {}, 0).decode()
    assert b"Content-Length: 3\r\n" in request_head("POST", "/", "h", {"Content-Length": "9"}, 3)


@pytest.mark.parametrize(
    "headers", [{"A": "b\r\nC: d"}, {"A\r\n": "b"}, {"A": "\u20ac"}, {"": "b"}]
)
def test_rejects_headers_that_cannot_be_sent(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        request_head("POST", "/", "h", headers, 0)
    assert "d" not in caught.value.message.replace("header", "").replace("provider", "").split()


def parse(text: str, method: str = "POST"):
    return parse_head(text.replace("\n", "\r\n").encode(), method)


@pytest.mark.parametrize(
    ("head", "framing", "keep"),
    [
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", Sized, True),
        ("HTTP/1.1 200 OK\nContent-Length: 5\nConnection: Close\n\n", Sized, False),
        ("HTTP/1.0 200 OK\nContent-Length: 5\n\n", Sized, False),
        ("HTTP/1.0 200 OK\nContent-Length: 5\nConnection: keep-alive\n\n", Sized, True),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n", Chunked, True),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 3\n\n", Chunked, False),
        ("HTTP/1.1 200 OK\n\n", UntilClose, False),
        ("HTTP/1.1 204 \nContent-Encoding: br\n\n", Sized, True),
        ("HTTP/1.1 101 Switching Protocols\n\n", Sized, True),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 7\n\n", Sized, True),
        ("HTTP/1.1 200\nContent-Length:\t5\nContent-Length: 5\n\n", Sized, True),
        ("HTTP/1.1 200 OK\n folded\nContent-Encoding: X-gzip\nContent-Length: 5\n\n", Sized, True),
    ],
)
def test_head_determines_framing_and_keep_alive(head: str, framing: type, keep: bool) -> None:
    parsed = parse(head)
    assert type(parsed.framing) is framing and parsed.keep_alive is keep
    assert parsed.framing.done is (parsed.status in (101, 204, 304))


def test_headers_are_found_in_any_case_folded_and_repeated() -> None:
    text = "HTTP/1.1 200 OK\nX-A:  one \nx-a: two\n\tgoes on\nno header\nX-B:\n\n"
    for ends in ("\r\n", "\n"):
        headers = parse_head(text.replace("\n", ends).encode(), "POST").headers
        assert headers.get_all("X-A") == ["one", "two goes on"]
        assert (headers.get("X-B", "c"), headers.get("X-C", "c")) == ("", "c")
        assert dict(headers.items()) == {"x-a": "two goes on", "x-b": ""}


def test_answer_to_a_head_request_has_no_body() -> None:
    assert parse("HTTP/1.1 200 OK\nContent-Length: 5\n\n", "HEAD").framing.done


@pytest.mark.parametrize(
    "head",
    [
        "SSH-2.0-OpenSSH\n\n",
        "HTTP/2 200\n\n",
        "HTTP/1.1 200 OK\nContent-Length: +5\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 5, 5\n\n",
        f"HTTP/1.1 200 OK\nContent-Length: {10**15}\n\n",
        "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 200 OK\nContent-Encoding: br\nContent-Length: 5\n\n",
    ],
)
def test_rejects_heads_that_it_cannot_interpret(head: str) -> None:
    with pytest.raises(FramingError):
        parse(head)


def test_error_shows_only_the_beginning_of_a_coding() -> None:
    with pytest.raises(FramingError) as caught:
        parse(f"HTTP/1.1 200 OK\nContent-Encoding: {'x' * 1000}\nContent-Length: 5\n\n")
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("text", ["\u00b2", "Mon, 01 Jan 2024 00:00:00 +9999999999999"])
def test_ignores_times_that_cannot_be_read(text: str) -> None:
    assert retry_after({"retry-after": text}, 0.0) is None


def test_finds_the_end_of_a_head_of_bounded_size() -> None:
    assert head_end(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody") == 25
    assert head_end(b"HTTP/1.1 200 OK\nA: b\n\nbody\r\n\r\n") == 22
    assert head_end(b"HTTP/1.1 200 OK\nA: b\n\r\nbody\n\n") == 23
    assert head_end(b"HTTP/1.1 200 OK\r\n") == -1
    for data in (b"x" * (MAX_HEAD + 1), b"x" * MAX_HEAD + b"\n\n"):
        with pytest.raises(FramingError):
            head_end(data)


def test_searches_only_new_bytes_for_the_end_of_a_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert [head_end(head, seen) for seen in range(22, 25)] == [25, 25, 25]
    assert head_end(head + b"A: b\r\n", 25) == -1


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("http://h:80/v1", "/v1", "h"),
        ("http://h:8000", "/", "h:8000"),
        ("https://H.example/a?b=c", "/a?b=c", "h.example"),
        ("http://[::1]:8/x", "/x", "[::1]:8"),
        ("https://[::1]/x", "/x", "[::1]"),
    ],
)
def test_parses_urls(url: str, target: str, host: str) -> None:
    address, found = parse_url(url, {})
    assert found == target and address.host_header == host and address.proxy is None


@pytest.mark.parametrize(
    "url",
    ["ftp://h/", "http://", "http://h:0/", "http://h:99999/", "http://h/\u00e9", "http://\u00e9/"],
)
def test_rejects_invalid_urls(url: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_url(url, {})


def test_reads_proxies_from_the_environment() -> None:
    environ = {
        "HTTP_PROXY": "http://%75:p%C3%A9@px:3128",
        "https_proxy": "sx:1",
        "NO_PROXY": "no.com",
    }
    address, target = parse_url("http://h/v1", environ)
    assert address.proxy == Proxy("px", 3128, "Basic dTpww6k=")
    assert target == "http://h/v1"  # the absolute form
    address, target = parse_url("https://h/v1", environ)
    assert address.proxy == Proxy("sx", 1) and target == "/v1"
    for name in ("ALL_PROXY", "all_proxy"):
        address, _ = parse_url("http://h/", {name: "http://all", "http_proxy": ""})
        assert address.proxy == Proxy("all", 80)
    address, _ = parse_url("http://h/", {"HTTP_PROXY": "http://a", "http_proxy": "http://b"})
    assert address.proxy == Proxy("b", 80)


def test_ignores_an_http_proxy_set_by_a_cgi_header() -> None:
    environ = {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}
    assert parse_url("http://h/", environ)[0].proxy is None


@pytest.mark.parametrize(
    ("pattern", "host", "direct"),
    [
        ("*", "any", True),
        ("example.com", "api.example.com", True),
        (".example.com", "api.example.com", True),
        ("example.com", "badexample.com", False),
        ("other, example.com", "example.com", True),
        ("Example.com", "example.com", True),
        ("10.1.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("example.com:80", "example.com", True),
        ("example.com:81", "example.com", False),
    ],
)
def test_no_proxy_exempts_matching_hosts(pattern: str, host: str, direct: bool) -> None:
    for names in ({"no_proxy": pattern, "NO_PROXY": "other"}, {"NO_PROXY": pattern}):
        address, _ = parse_url(f"http://{host}/", {"http_proxy": "http://p", **names})
        assert (address.proxy is None) is direct


@pytest.mark.parametrize("proxy", ["socks5://p", "https://p"])
def test_rejects_proxies_other_than_http(proxy: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_url("http://h/", {"http_proxy": proxy})


def test_long_heads_are_not_cached() -> None:
    """Short ones are, as many answers have the same head."""
    with traced() as memory:
        for number in range(100):
            parse(f"HTTP/1.1 200 OK\nContent-Length: 5\nX: {number:030000}\n\n")
        assert memory.now < 500_000


def test_accepts_at_most_a_hundred_headers() -> None:
    head = "HTTP/1.1 200 OK\n" + "".join(f"X-{n}: {n}\n" for n in range(100))
    assert parse(head + "\n").headers.get("x-99") == "99"
    with pytest.raises(FramingError, match="more than 100"):
        parse(head + "X: y\n\n")
