"""Error responses over a real socket: status, code and param; the connection stays open."""

from __future__ import annotations

import json
from typing import Any

import pytest
from request_samples import EVERY_FIELD, INVALID, MINIMAL, NOT_JSON, encoded, with_fields

PATH = "/v1/chat/completions"
CASES = [(code, encoded(body), param) for code, cases in INVALID.items() for body, param in cases]
CASES += [("invalid_json", raw, None) for raw in NOT_JSON.values() if len(raw) < 20_000]


def check_error(reply: Any, status: int, code: str, param: str | None = None) -> None:
    """Check an error response's status and body, and the headers that all have."""
    assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["x-request-id"].isascii()
    assert reply.error["message"]


def check_usable(client: Any, headers: dict[str, str] | None = None) -> None:
    """Check that the connection answers another request."""
    reply = client.exchange("POST", PATH, MINIMAL, headers or {})
    assert reply.json()["choices"][0]["message"]["content"] == "Hello"


def test_every_invalid_body_is_rejected_on_one_connection(keyless: Any) -> None:
    with keyless.connect() as client:
        for code, body, param in CASES:
            check_error(client.exchange("POST", PATH, body), 400, code, param)
        check_usable(client)


def test_deep_or_long_json_is_rejected_with_a_key(keyed: Any) -> None:
    key = {"Authorization": "Bearer right-key"}
    with keyed.connect() as client:
        for name in ("100,000 brackets", "100,000 objects", "1,000,000 digits"):
            check_error(client.exchange("POST", PATH, NOT_JSON[name], key), 400, "invalid_json")
        check_usable(client, key)


def test_request_with_every_field_is_answered(keyless: Any) -> None:
    with keyless.connect() as client:
        reply = client.exchange("POST", PATH, EVERY_FIELD)
        assert reply.status == 200, reply
        assert reply.json()["choices"][0]["finish_reason"] == "length"
        reply = client.exchange("POST", PATH, {**EVERY_FIELD, "stream": True})
        assert reply.body.endswith(b"data: [DONE]\n\n")


# -- content headers --------------------------------------------------------------------------

BODY = encoded(MINIMAL)


@pytest.mark.parametrize(
    "type", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "", "text/json"]
)
def test_other_content_type_is_rejected(keyless: Any, type: str) -> None:
    with keyless.connect() as client:
        reply = client.exchange("POST", PATH, BODY, {"Content-Type": type})
        check_error(reply, 415, "unsupported_media_type")
        assert "Content-Type: application/json" in reply.error["message"]
        check_usable(client)


def test_missing_content_type_is_rejected(keyless: Any) -> None:
    with keyless.connect() as client:
        client.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % PATH.encode())
        client.send(b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY))
        check_error(client.read_answer(), 415, "unsupported_media_type")
        check_usable(client)


def test_compressed_body_is_rejected(keyless: Any) -> None:
    with keyless.connect() as client:
        reply = client.exchange("POST", PATH, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        check_error(reply, 415, "unsupported_media_type")
        check_usable(client)


def test_missing_content_length_is_rejected(keyless: Any) -> None:
    with keyless.connect() as client:
        reply = client.exchange("POST", PATH, None, {"Content-Type": "application/json"})
        check_error(reply, 411, "length_required")
        check_usable(client)


def test_body_over_the_limit_is_rejected(keyless: Any) -> None:
    with keyless.connect() as client:
        body = encoded(with_fields(x="x" * 20_000))
        check_error(client.exchange("POST", PATH, body), 413, "body_too_large")
        check_usable(client)
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        reply = client.exchange("POST", PATH, chunks, {"Transfer-Encoding": "chunked"})
        check_error(reply, 413, "body_too_large")
        check_usable(client)


def test_chunked_body_is_read(keyless: Any) -> None:
    with keyless.connect() as client:
        chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        reply = client.exchange("POST", PATH, chunks, {"Transfer-Encoding": "chunked"})
        assert reply.json()["choices"][0]["message"]["content"] == "Hello"
        check_usable(client)


@pytest.mark.parametrize("length", [b"+5", b"-5", b"0x5", b"5_0", b"five", b"5, 6", b"\xb2"])
def test_invalid_content_length_closes_the_connection(keyless: Any, length: bytes) -> None:
    """The end of such a body is unknown."""
    with keyless.connect() as client:
        client.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % PATH.encode())
        client.send(b"Content-Type: application/json\r\nContent-Length: %b\r\n\r\n" % length)
        reply = client.read_answer()
        assert reply.status == 400 and reply.error["type"] == "invalid_request_error"
        assert client.at_end()
    with keyless.connect() as client:
        check_usable(client)


def test_incomplete_body_is_waited_for(keyless: Any) -> None:
    """A client that closes instead of sending the rest does not affect the next one."""
    with keyless.connect() as client:
        client.request("POST", PATH, BODY[:-5], {"Content-Length": str(len(BODY))})
        client.send(BODY[-5:])
        assert client.read_answer().status == 200
        client.request("POST", PATH, BODY[:-5], {"Content-Length": str(len(BODY))})
    with keyless.connect() as client:
        check_usable(client)


def test_bytes_after_the_body_are_the_next_request(keyless: Any) -> None:
    with keyless.connect() as client:
        client.request("POST", PATH, BODY + b"GARBAGE\r\n\r\n", {"Content-Length": str(len(BODY))})
        assert client.read_answer().status == 200
        assert client.read_answer().status == 400
        assert client.at_end()


def test_pipelined_requests_are_answered_in_order(keyless: Any) -> None:
    with keyless.connect() as client:
        for number in range(3):
            client.request("POST", PATH, {**MINIMAL, "messages": f"{number}"})
            client.request("POST", PATH, MINIMAL)
        for _ in range(3):
            check_error(client.read_answer(), 400, "invalid_parameter_type", "messages")
            assert client.read_answer().status == 200


# -- authorization and host -------------------------------------------------------------------


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
def test_missing_or_invalid_key_is_rejected(
    keyed: Any, header: str | None, code: str, method: str, path: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    with keyed.connect() as client:
        reply = client.exchange(method, path, BODY if method == "POST" else None, headers)
        check_error(reply, 401, code)
        assert reply.error["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"
        check_usable(client, {"Authorization": "Bearer other-key"})


def test_two_authorization_headers_are_rejected(keyed: Any) -> None:
    headers = [("Authorization", "Bearer right-key")] * 2
    with keyed.connect() as client:
        check_error(
            client.exchange("GET", "/v1/models", None, headers), 401, "malformed_authorization"
        )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_endpoints_need_no_key(keyed: Any, path: str) -> None:
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
def test_keyless_server_rejects_other_hosts_and_proxies(
    keyless: Any, headers: dict[str, str], method: str, path: str
) -> None:
    with keyless.connect() as client:
        reply = client.exchange(method, path, BODY if method == "POST" else None, headers)
        check_error(reply, 403, "host_not_allowed")
        assert reply.error["type"] == "permission_error"
        check_usable(client)


# -- CORS ------------------------------------------------------------------------------------

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_foreign_origin_is_rejected(keyless: Any) -> None:
    foreign = {"Origin": "https://foreign.example"}
    with keyless.connect() as client:
        reply = client.exchange("OPTIONS", PATH, None, {**foreign, **PREFLIGHT})
        check_error(reply, 403, "origin_not_allowed")
        reply = client.exchange("POST", PATH, BODY, foreign)
        check_error(reply, 403, "origin_not_allowed")
        assert "access-control-allow-origin" not in reply.headers
        check_usable(client)


def test_allowed_origin_gets_cors_headers(keyed: Any) -> None:
    origin = {"Origin": "https://app.test"}
    key = {"Authorization": "Bearer right-key"}
    with keyed.connect() as client:
        reply = client.exchange("OPTIONS", PATH, None, {**origin, **PREFLIGHT})
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == "https://app.test"
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert "Authorization" in reply.headers["access-control-allow-headers"]
        for request in ({**origin, **key}, origin):  # the page can read the error too
            reply = client.exchange("POST", PATH, {**MINIMAL, "stream": True}, request)
            assert reply.status == (200 if "Authorization" in request else 401)
            assert reply.headers["access-control-allow-origin"] == "https://app.test"
            assert reply.headers["vary"] == "Origin"
            assert "x-request-id" in reply.headers["access-control-expose-headers"]
        check_usable(client, key)


# -- header injection -------------------------------------------------------------------------


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
def test_model_name_cannot_inject_a_header(keyless: Any, model: str, stream: bool) -> None:
    with keyless.connect() as client:
        reply = client.exchange("POST", PATH, with_fields(model=model, stream=stream))
        assert reply.status == 200
        assert "set-cookie" not in reply.headers
        assert all(value.isascii() and value.isprintable() for value in reply.headers.values())
        if stream:
            assert json.loads(reply.body.split(b"\n\n")[0][6:])["model"] == model
        else:
            assert reply.json()["model"] == model
        check_usable(client)


@pytest.mark.parametrize("path", ["/v1/models/a%0d%0aSet-Cookie:x", "/v1/models/%ff", "/%0d%0ax"])
def test_path_cannot_inject_a_header(keyless: Any, path: str) -> None:
    with keyless.connect() as client:
        reply = client.exchange("GET", path)
        assert reply.status in (200, 404)
        assert "set-cookie" not in reply.headers
        check_usable(client)


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ("req-1", True),
        ("!" * 128, True),
        ("!" * 129, False),
        ("a b", False),
        ("caf\xe9", False),
        ("a\tb", False),
    ],
)
def test_only_valid_request_id_is_echoed(keyless: Any, sent: str, echoed: bool) -> None:
    with keyless.connect() as client:
        for body in (BODY, b"{}"):  # on success and on error
            reply = client.exchange("POST", PATH, body, {"X-Request-Id": sent})
            assert (reply.headers["x-request-id"] == sent) is echoed
            assert reply.headers["x-request-id"]


@pytest.mark.parametrize("line", [b"X-Request-Id: a\rSet-Cookie: b", b"X-Request-Id: a\0b"])
def test_control_characters_in_a_header_are_not_echoed(keyless: Any, line: bytes) -> None:
    with keyless.connect() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % line)
        reply = client.read_answer()
        assert "set-cookie" not in reply.headers
        assert reply.headers["x-request-id"].isprintable()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", PATH, 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/nothing", 404, "endpoint_not_found"),
        ("DELETE", "/", 405, "method_not_allowed"),
    ],
)
def test_unknown_route_or_method_is_rejected(
    keyless: Any, method: str, path: str, status: int, code: str
) -> None:
    with keyless.connect() as client:
        reply = client.exchange(method, path)
        check_error(reply, status, code)
        assert ("allow" in reply.headers) == (status == 405)
        check_usable(client)
