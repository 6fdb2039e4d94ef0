"""CORS: the origins that may send requests, and the headers for browsers."""

from __future__ import annotations

from typing import Any

import pytest

from choreo_wsgi.app.access import Gate
from choreo_wsgi.app.keys import Key
from choreo_wsgi.errors import ConfigurationError, PermissionDenied
from choreo_wsgi.settings import Settings

KEYS = {"digest": Key()}
KEYLESS = Gate({}, Settings())
OPEN = Gate(KEYS, Settings())
LISTED = Gate(KEYS, Settings(cors_origins=("https://App.test", "http://x.test:81/")))


RATES = ("limit", "remaining", "reset")


@pytest.mark.parametrize(
    "origin", ["app.test", "app.test:3000", "https://*.app.test", "https://a/b"]
)
def test_invalid_cors_origin_is_rejected_at_start(origin: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cors_origins: .* is not like https://HOST"):
        Gate(KEYS, Settings(cors_origins=("*", origin)))
    Gate(KEYS, Settings(cors_origins=("null", "http://[::1]:80/", "chrome-extension://abc")))


def environ_with(origin: str | None, **variables: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"HTTP_HOST": "localhost:8000", **variables}
    return environ if origin is None else {**environ, "HTTP_ORIGIN": origin}


def allowed(policy: Gate, origin: str) -> str | None:
    """Return Access-Control-Allow-Origin; check that the other two methods agree with it."""
    environ = environ_with(origin)
    answer = dict(policy.cors_headers(environ)).get("Access-Control-Allow-Origin")
    for check in (policy.check_origin, policy.preflight):
        if answer is None:
            with pytest.raises(PermissionDenied) as caught:
                check(environ)
            assert (caught.value.status, caught.value.code) == (403, "origin_not_allowed")
        else:
            check(environ)
    return answer


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:65535",
    ],
)
def test_without_keys_loopback_origins_are_allowed(origin: str) -> None:
    assert allowed(KEYLESS, origin) == origin


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://example.com",
        "http://localhost.example.com",
        "http://127.0.0.2",
        "ftp://localhost",
        "http://localhost:",
        "http://localhost:123456",
        "http://user@localhost",
        "http://localhost\r\nX: y",
    ],
)
def test_without_keys_other_origins_are_rejected(origin: str) -> None:
    assert allowed(KEYLESS, origin) is None


@pytest.mark.parametrize("origin", ["null", "https://example.com", "http://localhost:1"])
def test_with_keys_every_origin_is_allowed_by_default(origin: str) -> None:
    assert allowed(OPEN, origin) == "*"


def test_with_keys_only_listed_origins_are_allowed() -> None:
    for origin in ("https://app.test", "https://App.test", "http://x.test:81"):
        assert allowed(LISTED, origin) == origin
    for origin in ("http://app.test", "https://app.test:444", "http://x.test", "null", "*"):
        assert allowed(LISTED, origin) is None


@pytest.mark.parametrize("policy", [KEYLESS, OPEN, LISTED])
def test_requests_without_origin_are_allowed(policy: Gate) -> None:
    policy.check_origin(environ_with(None))
    assert policy.cors_headers(environ_with(None)) == [("Vary", "Origin")]
    assert ("Allow", "GET, POST, DELETE, OPTIONS") in policy.preflight(environ_with(None))


@pytest.mark.parametrize("policy", [KEYLESS, LISTED])
def test_same_origin_requests_are_allowed(policy: Gate) -> None:
    """Browsers send Origin to the page's own host too, where CORS does not apply."""
    own = environ_with("https://chat.test", HTTP_HOST="chat.test")
    policy.check_origin(own)
    assert "Access-Control-Allow-Origin" not in dict(policy.cors_headers(own))
    policy.check_origin(environ_with("https://chat.test", HTTP_HOST="Chat.TEST"))
    policy.check_origin(environ_with("http://[::1]:8000", HTTP_HOST="[::1]:8000"))
    with pytest.raises(PermissionDenied):
        policy.check_origin(environ_with("https://chat.test", HTTP_HOST="chat.test:81"))
    for origin, host in (("null", ""), ("http://", ""), ("ftp://chat.test", "chat.test")):
        with pytest.raises(PermissionDenied):
            policy.check_origin(environ_with(origin, HTTP_HOST=host))


@pytest.mark.parametrize("policy", [KEYLESS, OPEN])
def test_responses_expose_our_headers(policy: Gate) -> None:
    headers = dict(policy.cors_headers(environ_with("http://localhost:3000")))
    exposed = {name.strip().lower() for name in headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {
        "x-request-id",
        "request-id",
        "retry-after",
        "content-location",
        "choreo-stream-id",
        "choreo-provider",
        "choreo-resumable",
        "x-should-retry",
        *(f"x-ratelimit-{kind}-{of}" for kind in RATES for of in ("requests", "tokens")),
    }
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers


def permitted(requested: str) -> set[str]:
    environ = environ_with("http://localhost", HTTP_ACCESS_CONTROL_REQUEST_HEADERS=requested)
    headers = dict(KEYLESS.preflight(environ))
    assert headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    assert "Access-Control-Allow-Credentials" not in headers
    assert headers["Access-Control-Max-Age"] == "600"
    value = headers["Access-Control-Allow-Headers"]
    assert value.isascii() and value.isprintable()
    return {name.strip().lower() for name in value.split(",")}


ALWAYS_ALLOWED = {"authorization", "content-type", "last-event-id", "idempotency-key"}


@pytest.mark.parametrize(
    ("requested", "more"),
    [
        ("", set()),
        ("CHOREO-X,x-stainless-os", {"choreo-x", "x-stainless-os"}),
        (
            "x-api-key, api-key, anthropic-version, anthropic-dangerous-direct-browser-access",
            {
                "x-api-key",
                "api-key",
                "anthropic-version",
                "anthropic-dangerous-direct-browser-access",
            },
        ),
        ("openai-organization, x-request-id", {"openai-organization", "x-request-id"}),
        ("x-evil, cookie", set()),
        ("choreo-x\r\nset-cookie: a", set()),
        ("choreo-\xe9", set()),
        ("choreo-" + "x" * 10_000, set()),
    ],
)
def test_preflight_allows_known_request_headers_only(requested: str, more: set[str]) -> None:
    assert permitted(requested) == ALWAYS_ALLOWED | more
