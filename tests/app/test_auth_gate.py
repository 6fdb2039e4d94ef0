"""Admission: by API key; without configured keys, from loopback only."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from choreo_wsgi.app.access import Gate
from choreo_wsgi.app.keys import known_keys
from choreo_wsgi.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDenied,
)
from choreo_wsgi.settings import Configuration, Secret, Settings

LOCAL = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8000"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def gate_for(**settings: Any) -> Gate:
    given = Settings(**settings)
    return Gate(known_keys(Configuration(given, {})), given)


def keyed(*keys: str, **settings: Any) -> Gate:
    return gate_for(api_keys=tuple(map(Secret, keys)), **settings)


def bearer(key: str, scheme: str = "Bearer ") -> dict[str, str]:
    # WSGI servers hand headers over as Latin-1.
    return {"HTTP_AUTHORIZATION": (scheme + key).encode().decode("latin-1")}


@pytest.mark.parametrize("key", ["one", "schlüssel", "a,b"])
def test_each_key_is_admitted_under_its_own_id(key: str) -> None:
    gate = keyed("one", "schlüssel", "a,b")
    assert gate.admit(bearer(key)).id == digest(key)[:16]


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer   "])
def test_bearer_scheme_ignores_case_and_extra_spaces(scheme: str) -> None:
    assert keyed("one").admit(bearer("one", scheme))
    assert keyed("one").admit({"HTTP_AUTHORIZATION": " Bearer one "})


@pytest.mark.parametrize("header", ["HTTP_X_API_KEY", "HTTP_API_KEY"])
def test_key_headers_of_other_apis_are_accepted(header: str) -> None:
    gate = keyed("one", "two")
    assert gate.admit({header: "one"}).id == digest("one")[:16]
    assert gate.admit({header: "bad", **bearer("two")}).id == digest("two")[:16]
    assert gate.admit({"HTTP_API_KEY": "bad", "HTTP_X_API_KEY": "two"}).id == digest("two")[:16]
    with pytest.raises(AuthenticationError) as caught:
        gate.admit({header: "three"})
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("key", ["One", "onee", "é"])
def test_unknown_key_is_rejected(key: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        keyed("one", "zwei").admit(bearer(key))
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert key not in caught.value.message


@pytest.mark.parametrize(
    "variables",
    [{}, {"HTTP_AUTHORIZATION": ""}, {"HTTP_AUTHORIZATION": " "}, {"HTTP_API_KEY": " "}],
)
def test_missing_key_is_rejected(variables: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        keyed("one").admit(variables)
    assert caught.value.code == "missing_authorization"
    assert ("WWW-Authenticate", "Bearer") in caught.value.response_headers()


MALFORMED = [
    "one",
    "Bearer",
    "Bearerone",
    "Bearer\tone",
    "Bearer one, Bearer one",  # two header lines, joined by the server
    "Basic b25lOm9uZQ==",
    "Bearer one\x00",
    "Bearer on\x7fe",
]


@pytest.mark.parametrize("header", MALFORMED)
def test_malformed_authorization_is_rejected(header: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        keyed("one").admit({"HTTP_AUTHORIZATION": header})
    assert caught.value.code == "malformed_authorization"
    assert "one" not in caught.value.message


def test_authorization_outside_latin_1_is_rejected() -> None:
    with pytest.raises(AuthenticationError):
        keyed("one").admit({"HTTP_AUTHORIZATION": "Bearer \u20ac\ud800"})


def test_key_is_required_from_loopback_too() -> None:
    for allow_anonymous in (False, True):
        with pytest.raises(AuthenticationError):
            keyed("one", allow_anonymous=allow_anonymous).admit(LOCAL)


def test_traceback_locals_show_no_key() -> None:
    gate = keyed("right-key")
    try:
        gate.admit(bearer("wrong-key"))
    except AuthenticationError as error:
        shown = "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
        assert "right-key" not in shown
    else:
        pytest.fail("admitted")


# -- api_keys_file -------------------------------------------------------------------------


def from_file(path: Path, text: str | bytes) -> Gate:
    path = path / "digests"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return gate_for(api_keys_file=str(path))


def test_keys_file_of_digests_and_comments_is_read(tmp_path: Path) -> None:
    text = f"# the keys\n\n{digest('one')}\n{digest('two').upper()}  -\r\n{digest('three')} # bob"
    gate = from_file(tmp_path, text)
    for key in ("one", "two", "three"):
        assert gate.admit(bearer(key)).id == digest(key)[:16]
    with pytest.raises(AuthenticationError):
        gate.admit(bearer(digest("one")))


def test_keys_file_with_byte_order_mark_is_read(tmp_path: Path) -> None:
    """A key without a name is named by the first characters of its digest."""
    gate = from_file(tmp_path, b"\xef\xbb\xbf" + digest("one").encode())
    assert gate.admit(bearer("one")).name == digest("one")[:16]


def test_keys_and_keys_file_are_combined(tmp_path: Path) -> None:
    path = tmp_path / "digests"
    path.write_text(digest("one"))
    gate = keyed("two", "one", api_keys_file=str(path))
    assert gate.admit(bearer("one")) != gate.admit(bearer("two"))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 63,
        "a" * 65,
        f"{'a' * 64}\nsk-a-key-by-mistake",
        "\n# nothing\n",
        b"\xff\xfe",
    ],
)
def test_invalid_keys_file_is_rejected(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="api_keys_file") as caught:
        from_file(tmp_path, text)
    assert "mistake" not in caught.value.message
    assert ("line 2" in caught.value.message) == ("mistake" in str(text))


def test_missing_keys_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.*No such file"):
        gate_for(api_keys_file=str(tmp_path / "nowhere"))


# -- without keys --------------------------------------------------------------------------


def admit(environ: dict[str, str], **settings: Any) -> str:
    return gate_for(**settings).admit(environ).id


@pytest.mark.parametrize(
    "peer",
    ["127.8.9.10", "::1", "::1%lo", "::ffff:127.0.0.1", "", "localhost"],
)
def test_without_keys_loopback_peers_are_admitted(peer: str) -> None:
    assert admit({**LOCAL, "REMOTE_ADDR": peer}) == ""


@pytest.mark.parametrize(
    "peer",
    [
        "192.168.1.5",
        "0.0.0.0",
        "fe80::1%lo",
        "::ffff:10.0.0.1",
        "127.0.0.1, 10.0.0.1",
    ],
)
def test_without_keys_remote_peers_are_rejected(peer: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        admit({**LOCAL, "REMOTE_ADDR": peer})
    assert (caught.value.status, caught.value.code) == (403, "host_not_allowed")


def test_without_keys_a_unix_socket_is_admitted() -> None:
    assert admit({"HTTP_HOST": "localhost"}) == ""


@pytest.mark.parametrize(
    "host",
    [
        "LocalHost:80",
        "localhost:",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8000",
    ],
)
def test_without_keys_loopback_hosts_are_admitted(host: str) -> None:
    assert admit({**LOCAL, "HTTP_HOST": host}) == ""


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com:8000",
        "localhost.example.com",
        "127.0.0.1.nip.io:8000",
        "localhost@example.com",
        "localhost:80:80",
        "localhost:port",
        "localhost:123456",
        "0x7f.0.0.1",
        "::1",
        "[::2]:8000",
    ],
)
def test_without_keys_other_hosts_are_rejected(host: str) -> None:
    with pytest.raises(PermissionDenied):
        admit({**LOCAL, "HTTP_HOST": host})


def test_without_keys_a_missing_host_is_rejected() -> None:
    with pytest.raises(PermissionDenied):
        admit({"REMOTE_ADDR": "127.0.0.1"})


#: Headers that proxies add; for a matched prefix, one example.
ADDED = [
    "Forwarded",
    "Via",
    "CDN-Loop",
    "Front-End-Https",
    "X-Forwarded-For",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "X-Original-For",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Remote-Addr",
    "X-Remote-IP",
    "X-ProxyUser-Ip",
    "X-Scheme",
    "X-Varnish",
    "X-Envoy-External-Address",
    "X-Amzn-Trace-Id",
    "X-Amz-Cf-Id",
    "X-Azure-ClientIP",
    "X-FD-HealthProbe",
    "X-ARR-SSL",
    "X-AppEngine-User-IP",
    "X-Cloud-Trace-Context",
    "Client-IP",
    "True-Client-IP",
    "CF-Ray",
    "Fly-Region",
    "Fastly-Client-IP",
    "Akamai-Origin-Hop",
    "Tailscale-User-Login",
    "Incap-Client-IP",
    "Proxy-Client-IP",
]


@pytest.mark.parametrize("name", ADDED)
def test_without_keys_forwarded_requests_are_rejected(name: str) -> None:
    with pytest.raises(PermissionDenied, match="forwarded"):
        admit({**LOCAL, "HTTP_" + name.upper().replace("-", "_"): ""})


@pytest.mark.parametrize(
    ("protocol", "connection", "passes"),
    [
        ("HTTP/1.0", "close", False),  # the default of nginx
        ("HTTP/1.0", "Close ", False),
        ("HTTP/1.0", "keep-alive", True),
        ("HTTP/1.1", "close", True),
    ],
)
def test_without_keys_http_1_0_with_close_is_taken_for_a_proxy(
    protocol: str, connection: str, passes: bool
) -> None:
    environ = {**LOCAL, "SERVER_PROTOCOL": protocol, "HTTP_CONNECTION": connection}
    if passes:
        assert admit(environ) == ""
    else:
        with pytest.raises(PermissionDenied, match="forwarded"):
            admit(environ)


@pytest.mark.parametrize("name", ["X_STAINLESS_LANG", "X_REQUEST_ID"])
def test_headers_of_clients_are_not_taken_for_a_proxys(name: str) -> None:
    assert admit({**LOCAL, "HTTP_" + name: "x"}) == ""


@pytest.mark.parametrize("anonymous", [False, True])
def test_behind_proxy_requires_keys(anonymous: bool) -> None:
    with pytest.raises(ConfigurationError, match="behind_proxy"):
        gate_for(behind_proxy=True, allow_anonymous=anonymous)
    assert gate_for(behind_proxy=True, api_keys=("k",))


@pytest.mark.parametrize("path", ["", "/", "/healthz", "/readyz", "/metrics"])
def test_only_open_paths_need_no_key(path: str) -> None:
    assert admit({"PATH_INFO": path, "REMOTE_ADDR": "10.0.0.1"}, api_keys=("k",)) == ""
    for other in ("/v1/models", path + "x", "/v1/chat/completions/"):
        with pytest.raises(AuthenticationError):
            admit({**LOCAL, "PATH_INFO": other}, api_keys=("k",))


def test_allow_anonymous_admits_any_caller() -> None:
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "example.com", "HTTP_VIA": "1.1 x"}
    assert admit(environ, allow_anonymous=True) == ""


def test_without_keys_authorization_is_ignored() -> None:
    assert admit({**LOCAL, "HTTP_AUTHORIZATION": "Bearer anything"}) == ""


@pytest.mark.parametrize("part", ["host", "names"])
def test_keeps_nothing_of_long_heads(part: str) -> None:
    gate = gate_for()

    def request(number: int) -> dict[str, str]:
        if part == "host":
            return {**LOCAL, "HTTP_HOST": "h" * 60_000 + str(number)}
        return {**LOCAL, **{f"HTTP_A{number}_{other}": "" for other in range(1000)}}

    tracemalloc.start()
    try:
        for number in range(100):
            with contextlib.suppress(PermissionDenied):
                gate.admit(request(number))
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
