"""CORS: the web pages that may call, and the headers for their browsers."""

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
def test_an_invalid_value_is_no_origin_at_start(origin: str) -> None:
    """No page could have such an origin."""
    with pytest.raises(ConfigurationError, match=r"cors_origins: .* is not like https://HOST"):
        Gate(KEYS, Settings(cors_origins=("*", origin)))
    Gate(KEYS, Settings(cors_origins=("null", "http://[::1]:80/", "chrome-extension://abc")))


def asking(origin: str | None, **variables: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"HTTP_HOST": "localhost:8000", **variables}
    return environ if origin is None else {**environ, "HTTP_ORIGIN": origin}


def allowed(policy: Gate, origin: str) -> str | None:
    """Return Access-Control-Allow-Origin; check that the two other methods agree with it."""
    environ = asking(origin)
    answer = dict(policy.cors_headers(environ)).get("Access-Control-Allow-Origin")
    for door in (policy.check_origin, policy.preflight):
        if answer is None:
            with pytest.raises(PermissionDenied) as caught:
                door(environ)
            assert (caught.value.status, caught.value.code) == (403, "origin_not_allowed")
        else:
            door(environ)
    return answer


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:65535",
    ],
)
def test_without_keys_pages_of_this_machine(origin: str) -> None:
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
def test_without_keys_no_other_pages(origin: str) -> None:
    assert allowed(KEYLESS, origin) is None


@pytest.mark.parametrize("origin", ["null", "https://example.com", "http://localhost:1"])
def test_with_keys_every_page_by_default(origin: str) -> None:
    assert allowed(OPEN, origin) == "*"


def test_with_keys_the_listed_origins() -> None:
    for origin in ("https://app.test", "https://App.test", "http://x.test:81"):
        assert allowed(LISTED, origin) == origin
    for origin in ("http://app.test", "https://app.test:444", "http://x.test", "null", "*"):
        assert allowed(LISTED, origin) is None


@pytest.mark.parametrize("policy", [KEYLESS, OPEN, LISTED])
def test_callers_that_are_no_pages(policy: Gate) -> None:
    policy.check_origin(asking(None))
    assert policy.cors_headers(asking(None)) == [("Vary", "Origin")]
    assert ("Allow", "GET, POST, DELETE, OPTIONS") in policy.preflight(asking(None))


@pytest.mark.parametrize("policy", [KEYLESS, LISTED])
def test_pages_that_this_host_has_served(policy: Gate) -> None:
    """Browsers send an Origin to the page's own host too, where CORS does not apply."""
    own = asking("https://chat.test", HTTP_HOST="chat.test")
    policy.check_origin(own)
    assert "Access-Control-Allow-Origin" not in dict(policy.cors_headers(own))
    policy.check_origin(asking("https://chat.test", HTTP_HOST="Chat.TEST"))
    policy.check_origin(asking("http://[::1]:8000", HTTP_HOST="[::1]:8000"))
    with pytest.raises(PermissionDenied):
        policy.check_origin(asking("https://chat.test", HTTP_HOST="chat.test:81"))
    for origin, host in (("null", ""), ("http://", ""), ("ftp://chat.test", "chat.test")):
        with pytest.raises(PermissionDenied):
            policy.check_origin(asking(origin, HTTP_HOST=host))


@pytest.mark.parametrize("policy", [KEYLESS, OPEN])
def test_the_headers_of_every_answer(policy: Gate) -> None:
    headers = dict(policy.cors_headers(asking("http://localhost:3000")))
    exposed = {name.strip().lower() for name in headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {
        "x-request-id",
        "retry-after",
        "content-location",
        "choreo-stream-id",
        "choreo-provider",
        "choreo-resumable",
        "x-should-retry",
        *(f"x-ratelimit-{what}-{of}" for what in RATES for of in ("requests", "tokens")),
    }
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers


def permitted(requested: str) -> set[str]:
    environ = asking("http://localhost", HTTP_ACCESS_CONTROL_REQUEST_HEADERS=requested)
    headers = dict(KEYLESS.preflight(environ))
    assert headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
    assert "Access-Control-Allow-Credentials" not in headers
    assert int(headers["Access-Control-Max-Age"]) > 0
    value = headers["Access-Control-Allow-Headers"]
    assert value.isascii() and value.isprintable()
    return {name.strip().lower() for name in value.split(",")}


ALWAYS = {"authorization", "content-type", "last-event-id", "idempotency-key"}


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
        ("openai-organization", {"openai-organization"}),
        ("x-evil, cookie", set()),
        ("choreo-x\r\nset-cookie: a", set()),
        ("choreo-\xe9", set()),
        ("choreo-" + "x" * 10_000, set()),
    ],
)
def test_headers_that_a_page_may_send(requested: str, more: set[str]) -> None:
    assert permitted(requested) == ALWAYS | more
