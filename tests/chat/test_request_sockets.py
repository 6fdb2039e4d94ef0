"""Every refusal over a real socket: status, code and field, and a connection that goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from request_samples import LEAST, NOT_JSON, REFUSED, WHOLE, encoded, with_fields

PATH = "/v1/chat/completions"
CASES = [(code, encoded(body), param) for code, cases in REFUSED.items() for body, param in cases]
CASES += [("invalid_json", raw, None) for raw in NOT_JSON.values() if len(raw) < 20_000]


def check(answer: Any, status: int, code: str, param: str | None = None) -> None:
    """Check a refusal's status and body, and what every refusal has."""
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"].isascii()
    assert answer.error["message"]


def works(client: Any, headers: dict[str, str] | None = None) -> None:
    """Check that the connection goes on to the next request."""
    answer = client.exchange("POST", PATH, LEAST, headers or {})
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


def test_every_bad_body_on_one_connection(keyless: Any) -> None:
    with keyless.connect() as client:
        for code, body, param in CASES:
            check(client.exchange("POST", PATH, body), 400, code, param)
        works(client)


def test_a_deep_body_over_a_socket(keyed: Any) -> None:
    key = {"Authorization": "Bearer right-key"}
    with keyed.connect() as client:
        for name in ("100,000 brackets", "100,000 objects", "1,000,000 digits"):
            check(client.exchange("POST", PATH, NOT_JSON[name], key), 400, "invalid_json")
        works(client, key)


def test_everything_that_the_schema_has(keyless: Any) -> None:
    with keyless.connect() as client:
        answer = client.exchange("POST", PATH, WHOLE)
        assert answer.status == 200, answer
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        answer = client.exchange("POST", PATH, {**WHOLE, "stream": True})
        assert answer.body.endswith(b"data: [DONE]\n\n")


# -- the body's head -------------------------------------------------------------------------

BODY = encoded(LEAST)


@pytest.mark.parametrize(
    "type", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "", "text/json"]
)
def test_types_that_are_not_json(keyless: Any, type: str) -> None:
    with keyless.connect() as client:
        answer = client.exchange("POST", PATH, BODY, {"Content-Type": type})
        check(answer, 415, "unsupported_media_type")
        assert "Content-Type: application/json" in answer.error["message"]
        works(client)


def test_a_body_without_a_type(keyless: Any) -> None:
    with keyless.connect() as client:
        client.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % PATH.encode())
        client.send(b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY))
        check(client.read_answer(), 415, "unsupported_media_type")
        works(client)


def test_a_compressed_body(keyless: Any) -> None:
    with keyless.connect() as client:
        answer = client.exchange("POST", PATH, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        check(answer, 415, "unsupported_media_type")
        works(client)


def test_no_body_and_no_length(keyless: Any) -> None:
    with keyless.connect() as client:
        answer = client.exchange("POST", PATH, None, {"Content-Type": "application/json"})
        check(answer, 411, "length_required")
        works(client)


def test_a_body_over_the_limit(keyless: Any) -> None:
    with keyless.connect() as client:
        body = encoded(with_fields(x="x" * 20_000))
        check(client.exchange("POST", PATH, body), 413, "body_too_large")
        works(client)
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        answer = client.exchange("POST", PATH, chunks, {"Transfer-Encoding": "chunked"})
        check(answer, 413, "body_too_large")
        works(client)


def test_a_chunked_body(keyless: Any) -> None:
    with keyless.connect() as client:
        chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        answer = client.exchange("POST", PATH, chunks, {"Transfer-Encoding": "chunked"})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        works(client)


@pytest.mark.parametrize("length", [b"+5", b"-5", b"0x5", b"5_0", b"five", b"5, 6", b"\xb2"])
def test_a_length_that_is_no_number(keyless: Any, length: bytes) -> None:
    """Where such a body ends is unknown, so the connection ends with the answer."""
    with keyless.connect() as client:
        client.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % PATH.encode())
        client.send(b"Content-Type: application/json\r\nContent-Length: %b\r\n\r\n" % length)
        answer = client.read_answer()
        assert answer.status == 400 and answer.error["type"] == "invalid_request_error"
        assert client.at_end()
    with keyless.connect() as client:
        works(client)


def test_a_body_shorter_than_its_length(keyless: Any) -> None:
    """The rest may still come; a client that closes instead leaves nothing behind."""
    with keyless.connect() as client:
        client.request("POST", PATH, BODY[:-5], {"Content-Length": str(len(BODY))})
        client.send(BODY[-5:])
        assert client.read_answer().status == 200
        client.request("POST", PATH, BODY[:-5], {"Content-Length": str(len(BODY))})
    with keyless.connect() as client:
        works(client)


def test_a_body_longer_than_its_length(keyless: Any) -> None:
    """What is too much is the beginning of the next request, and no part of this one."""
    with keyless.connect() as client:
        client.request("POST", PATH, BODY + b"GARBAGE\r\n\r\n", {"Content-Length": str(len(BODY))})
        assert client.read_answer().status == 200
        assert client.read_answer().status == 400
        assert client.at_end()


def test_a_request_behind_another_is_answered_in_turn(keyless: Any) -> None:
    with keyless.connect() as client:
        for number in range(3):
            client.request("POST", PATH, {**LEAST, "messages": f"{number}"})
            client.request("POST", PATH, LEAST)
        for _ in range(3):
            check(client.read_answer(), 400, "invalid_parameter_type", "messages")
            assert client.read_answer().status == 200


# -- who calls -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "code", "method", "path"),
    [
        (None, "missing_authorization", "POST", PATH),
        ("right-key", "malformed_authorization", "POST", PATH),
        ("Bearer", "malformed_authorization", "POST", PATH),
        ("Bearer right-key other-key", "malformed_authorization", "POST", PATH),
        ("Basic cmlnaHQta2V5", "malformed_authorization", "POST", PATH),
        ("Bearer wrong-key", "invalid_api_key", "POST", PATH),
        ("Bearer \xff\xfe", "invalid_api_key", "POST", PATH),
        ("Bearer wrong-key", "invalid_api_key", "GET", "/nothing"),
    ],
)
def test_authorization(keyed: Any, header: str | None, code: str, method: str, path: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    with keyed.connect() as client:
        answer = client.exchange(method, path, BODY if method == "POST" else None, headers)
        check(answer, 401, code)
        assert answer.error["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        works(client, {"Authorization": "Bearer other-key"})


def test_two_authorization_headers(keyed: Any) -> None:
    headers = [("Authorization", "Bearer right-key")] * 2
    with keyed.connect() as client:
        check(client.exchange("GET", "/v1/models", None, headers), 401, "malformed_authorization")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(keyed: Any, path: str) -> None:
    with keyed.connect() as client:
        assert client.exchange("GET", path, None, {"Host": "10.0.0.1"}).status == 200


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        ({"Host": "rebound.example"}, "POST", PATH),
        ({"Host": "rebound.example"}, "GET", "/v1/models"),
        ({"Host": "127.0.0.1.nip.io"}, "POST", PATH),
        ({"X-Forwarded-For": "10.0.0.1"}, "POST", PATH),
        ({"Forwarded": "for=10.0.0.1"}, "POST", PATH),
        ({"X-Real-IP": "127.0.0.1"}, "POST", PATH),
        ({"Via": "1.1 proxy"}, "POST", PATH),
    ],
)
def test_without_keys_only_this_machine(
    keyless: Any, headers: dict[str, str], method: str, path: str
) -> None:
    with keyless.connect() as client:
        answer = client.exchange(method, path, BODY if method == "POST" else None, headers)
        check(answer, 403, "host_not_allowed")
        assert answer.error["type"] == "permission_error"
        works(client)


# -- web pages -------------------------------------------------------------------------------

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_a_foreign_page(keyless: Any) -> None:
    foreign = {"Origin": "https://foreign.example"}
    with keyless.connect() as client:
        answer = client.exchange("OPTIONS", PATH, None, {**foreign, **PREFLIGHT})
        check(answer, 403, "origin_not_allowed")
        answer = client.exchange("POST", PATH, BODY, foreign)
        check(answer, 403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
        works(client)


def test_a_page_that_may_call(keyed: Any) -> None:
    page = {"Origin": "https://app.test"}
    key = {"Authorization": "Bearer right-key"}
    with keyed.connect() as client:
        answer = client.exchange("OPTIONS", PATH, None, {**page, **PREFLIGHT})
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "https://app.test"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        for request in ({**page, **key}, page):  # it can read the refusal too
            answer = client.exchange("POST", PATH, {**LEAST, "stream": True}, request)
            assert answer.status == (200 if "Authorization" in request else 401)
            assert answer.headers["access-control-allow-origin"] == "https://app.test"
            assert answer.headers["vary"] == "Origin"
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        works(client, key)


# -- injection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stream"),
    [
        ("a\r\nSet-Cookie: x=y", True),
        ("a\r\nSet-Cookie: x=y", False),
        ("模型", True),
        ("caf\xe9", True),
        ("\x85\u2028", True),
        ("", True),
    ],
)
def test_no_model_name_makes_a_header(keyless: Any, model: str, stream: bool) -> None:
    with keyless.connect() as client:
        answer = client.exchange("POST", PATH, with_fields(model=model, stream=stream))
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert all(value.isascii() and value.isprintable() for value in answer.headers.values())
        if stream:
            assert json.loads(answer.body.split(b"\n\n")[0][6:])["model"] == model
        else:
            assert answer.json()["model"] == model
        works(client)


@pytest.mark.parametrize("path", ["/v1/models/a%0d%0aSet-Cookie:x", "/v1/models/%ff", "/%0d%0ax"])
def test_no_path_makes_a_header(keyless: Any, path: str) -> None:
    with keyless.connect() as client:
        answer = client.exchange("GET", path)
        assert answer.status in (200, 404)
        assert "set-cookie" not in answer.headers
        works(client)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("req-1", True),
        ("!" * 128, True),
        ("!" * 129, False),
        ("a b", False),
        ("caf\xe9", False),
        ("a\tb", False),
    ],
)
def test_the_request_id_comes_back_or_is_ours(keyless: Any, given: str, kept: bool) -> None:
    with keyless.connect() as client:
        for body in (BODY, b"{}"):  # on answers and on refusals
            answer = client.exchange("POST", PATH, body, {"X-Request-Id": given})
            assert (answer.headers["x-request-id"] == given) is kept
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize("line", [b"X-Request-Id: a\rSet-Cookie: b", b"X-Request-Id: a\0b"])
def test_a_header_with_control_characters(keyless: Any, line: bytes) -> None:
    with keyless.connect() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % line)
        answer = client.read_answer()
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-request-id"].isprintable()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", PATH, 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/nothing", 404, "endpoint_not_found"),
        ("DELETE", "/", 405, "method_not_allowed"),
    ],
)
def test_routes(keyless: Any, method: str, path: str, status: int, code: str) -> None:
    with keyless.connect() as client:
        answer = client.exchange(method, path)
        check(answer, status, code)
        assert ("allow" in answer.headers) == (status == 405)
        works(client)
