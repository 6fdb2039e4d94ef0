"""The application with the echo provider, called through wsgiref's validator, no server."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import anthropic
import harness
import pytest
from scripted_provider import Script
from wsgi_calls import call, chat, environ_of

from choreo_wsgi import sse
from choreo_wsgi.app.application import Application
from choreo_wsgi.chat.items import Delta, Finish
from choreo_wsgi.errors import ChoreoError, ProviderError, RateLimited

Make = Callable[..., Application]
CHAT = "/v1/chat/completions"


def data_of(body: bytes) -> list[Any]:
    """Return the data of a stream's events, with JSON parsed."""
    events = sse.Decoder(errors="strict").receive_data(body)
    assert b"".join(sse.frame(event.data.encode()) for event in events) == body
    return [event.data if event.data == "[DONE]" else json.loads(event.data) for event in events]


def texts_of(chunks: list[Any], n: int = 1) -> list[str]:
    texts = [""] * n
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    return texts


def reasons_of(chunks: list[Any]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["finish_reason"]:
                assert choice["index"] not in reasons
                reasons[choice["index"]] = choice["finish_reason"]
    return reasons


# -- completions of the echo ---------------------------------------------------------------


def test_stream_bytes_match_the_wire_format(application: Make) -> None:
    answer = call(application(), "POST", CHAT, chat("Once upon a time", stream=True))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["choreo-provider"] == "echo"
    assert not {"connection", "content-length", "transfer-encoding"} & set(answer.headers)
    match = re.match(
        rb'data: \{"id":"(chatcmpl-[\w-]{22,})","object":"chat.completion.chunk",'
        rb'"created":(\d{10}),"model":"echo",',
        answer.body,
    )
    assert match
    head = match[0]
    assert answer.body == b"".join(
        [
            head + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
            b'"finish_reason":null}]}\n\n',
            *(
                head + b'"choices":[{"index":0,"delta":{"content":"%b"},'
                b'"finish_reason":null}]}\n\n' % word
                for word in (b"Once ", b"upon ", b"a ", b"time")
            ),
            head + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
            b"data: [DONE]\n\n",
        ]
    )


def test_body_blocks_are_whole_frames(application: Make) -> None:
    """The reader in the documentation parses each read separately."""
    answer = call(application(), "POST", CHAT, chat("a b c d", stream=True))
    assert all(block.startswith(b"data: ") and block.endswith(b"\n\n") for block in answer.blocks)
    assert len(answer.blocks) >= 5


def test_completion_ids_are_unique(application: Make) -> None:
    app = application()
    ids = {data_of(call(app, "POST", CHAT, chat("a", stream=True)).body)[0]["id"] for _ in "abcde"}
    assert len(ids) == 5


@pytest.mark.parametrize(
    "text",
    ["", " ", "  two  words \n", '"\\\n\t\0', "\u2028 \u2029"],
)
def test_echo_returns_the_message_unchanged(application: Make, text: str) -> None:
    app = application()
    data = data_of(call(app, "POST", CHAT, chat(text, stream=True)).body)
    assert data.pop() == "[DONE]"
    assert texts_of(data) == [text] and reasons_of(data) == {0: "stop"}
    answer = call(app, "POST", CHAT, chat(text)).json()
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": text,
        "refusal": None,
    }


def test_chunks_of_two_choices_interleave(application: Make) -> None:
    data = data_of(call(application(), "POST", CHAT, chat("a b c", n=2, stream=True)).body)
    assert data.pop() == "[DONE]"
    assert texts_of(data, 2) == ["a b c", "a b c"]
    assert reasons_of(data) == {0: "stop", 1: "stop"}
    indexes = [chunk["choices"][0]["index"] for chunk in data]
    assert indexes != sorted(indexes), "the choices were sent one after the other"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in data}) == 1


@pytest.mark.parametrize(
    ("stop", "text", "stream"),
    [
        ("c", "a b ", False),
        (["x", "b c"], "a ", True),
        ("d e", "a b c d", True),
        ("a", "", False),
    ],
)
def test_stop_string_ends_the_text_before_it(
    application: Make, stop: Any, text: str, stream: bool
) -> None:
    answer = call(application(), "POST", CHAT, chat("a b c d", stop=stop, stream=stream))
    if stream:
        data = data_of(answer.body)[:-1]
        assert (texts_of(data), reasons_of(data)) == ([text], {0: "stop"})
    else:
        choice = answer.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")


@pytest.mark.parametrize(
    ("name", "limit", "text", "reason", "stream"),
    [
        ("max_tokens", 0, "", "length", True),
        ("max_tokens", 1, "a ", "length", False),
        ("max_completion_tokens", 1, "a ", "length", True),
        ("max_completion_tokens", 2, "a b", "stop", False),
    ],
)
def test_token_limit_cuts_the_text(
    application: Make, name: str, limit: int, text: str, reason: str, stream: bool
) -> None:
    answer = call(application(), "POST", CHAT, chat("a b", stream=stream, **{name: limit}))
    if stream:
        data = data_of(answer.body)
        assert data.pop() == "[DONE]"
        assert (texts_of(data), reasons_of(data)) == ([text], {0: reason})
    else:
        choice = answer.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


def test_usage_chunk_is_sent_only_when_requested(application: Make) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    app = application()
    data = data_of(call(app, "POST", CHAT, chat("a b c", n=2, **options)).body)
    assert data.pop() == "[DONE]"
    last = data.pop()
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}
    assert all(chunk["usage"] is None for chunk in data)
    without = call(app, "POST", CHAT, chat("a", stream=True)).body
    assert b"usage" not in without


def test_usage_counts_tokens_up_to_the_stop_string(application: Make) -> None:
    usage = call(application(), "POST", CHAT, chat("a b c d", stop="b")).json()["usage"]
    assert usage == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_plain_completion_returns_one_document(application: Make) -> None:
    answer = call(application(), "POST", CHAT, chat("a b", n=2))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    document = answer.json()
    assert re.fullmatch(r"chatcmpl-[\w-]{22,}", document.pop("id"))
    assert document.pop("created") > 1_700_000_000
    message = {"role": "assistant", "content": "a b", "refusal": None}
    choice = {"message": message, "finish_reason": "stop", "logprobs": None}
    assert document == {
        "object": "chat.completion",
        "model": "echo",
        "choices": [{"index": 0, **choice}, {"index": 1, **choice}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
    }


# -- routes --------------------------------------------------------------------------------


def test_app_serves_below_any_script_name(application: Make) -> None:
    app = application()
    for mount in ("", "/llm", "/deep/er"):
        answer = call(app, "POST", CHAT, chat("a", stream=True), SCRIPT_NAME=mount)
        assert answer.status == 200 and answer.body.endswith(sse.DONE)
        assert call(app, "GET", "/healthz", SCRIPT_NAME=mount).status == 200
        assert call(app, "GET", "", SCRIPT_NAME=mount or "/x").status == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions/", "/V1/models", "/v1/models/", "/v1/chat/completions\r\nX: y", "/\xff"],
)
def test_unknown_paths_return_404_with_the_endpoints(application: Make, path: str) -> None:
    answer = call(application(), "GET", path)
    assert answer.status == 404
    assert answer.error["code"] == "endpoint_not_found"
    assert answer.error["type"] == "not_found_error"
    assert answer.headers["x-should-retry"] == "false"
    assert "POST /v1/chat/completions" in answer.error["message"]


@pytest.mark.parametrize(
    ("path", "method"), [("/", "HEAD"), ("/health", "GET"), ("/healthz", "GET")]
)
def test_probes_need_no_key(application: Make, path: str, method: str) -> None:
    app = application(api_keys="k")
    assert call(app, method, path, HTTP_ORIGIN="https://x.test").status == 200


def test_errors_have_the_format_of_the_callers_api(application: Make) -> None:
    app = application(api_keys="k")
    for path, more in (("/v1/messages", {}), ("/v1/models", {"HTTP_ANTHROPIC_VERSION": "x"})):
        answer = call(app, "GET", path, **more)
        assert answer.status == 401
        error = answer.json()
        assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
    assert call(app, "GET", "/v1/models").error["code"] == "missing_authorization"


def test_models_have_the_format_of_the_callers_api(application: Make) -> None:
    app = application()
    listed = call(app, "GET", "/v1/models", HTTP_ANTHROPIC_VERSION="2023-06-01").json()
    assert [model["id"] for model in listed["data"]] == ["echo"]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "echo", "echo")
    assert listed["data"][0]["type"] == "model"
    one = call(app, "GET", "/v1/models/echo", HTTP_ANTHROPIC_VERSION="2023-06-01").json()
    assert one == listed["data"][0] and one["created_at"] > "2024"
    app = application({"more": {"type": "echo", "models": ", ".join(map(str, range(30)))}})
    listed = call(app, "GET", "/v1/models", HTTP_ANTHROPIC_VERSION="2023-06-01").json()
    assert len(listed["data"]) == 31, "the default page has all models"


def test_anthropic_model_list_is_paginated(
    application: Make, serve: Callable[..., harness.Server]
) -> None:
    """Its SDK requests every page; without a limit one page has all models."""
    names = ["m0", "m1", "m2", "m3", "echo"]
    app = application({"more": {"type": "echo", "models": ", ".join(names[:4])}})
    with anthropic.Anthropic(base_url=serve(app).url, api_key="k", max_retries=0) as client:

        def ids(**query: Any) -> list[str]:
            return [model.id for model in client.models.list(**query).data]

        for limit in (1, 2, 5, 6):
            assert [model.id for model in client.models.list(limit=limit)] == names
            backward = client.models.list(limit=limit, before_id="echo")
            assert sorted(model.id for model in backward) == names[:4]
        assert not client.models.list(limit=5).has_more
        assert ids() == names
        assert ids(after_id="m1", limit=2) == ["m2", "m3"]
        assert ids(before_id="m3", limit=2) == ["m1", "m2"]
        assert ids(before_id="m0") == ids(after_id="echo") == []
        invalid: list[dict[str, Any]] = [{"limit": 0}, {"limit": 1001}, {"after_id": "x"}]
        for query in (*invalid, {"limit": "x"}, {"before_id": "m"}):
            with pytest.raises(anthropic.BadRequestError, match=next(iter(query))):
                ids(**query)


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        (CHAT, "GET", "POST, OPTIONS"),
        (CHAT, "HEAD", "POST, OPTIONS"),
        ("/v1/models/echo", "DELETE", "GET, HEAD, OPTIONS"),
        ("/readyz", "PATCH", "GET, HEAD, OPTIONS"),
        ("/v1/streams/x", "POST", "GET, DELETE, HEAD, OPTIONS"),
    ],
)
@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_wrong_method_returns_405_with_allow(
    application: Make, path: str, method: str, allow: str
) -> None:
    answer = call(application(), method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    if method != "HEAD":
        assert answer.error["code"] == "method_not_allowed"


def test_websocket_upgrade_is_rejected_with_a_hint(application: Make) -> None:
    answer = call(application(), "GET", "/v1/responses", HTTP_UPGRADE="websocket")
    assert answer.status == 405
    assert "WebSockets" in answer.error["message"]
    assert 'POST "stream": true' in answer.error["message"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models/echo"])
def test_head_returns_the_headers_of_get(application: Make, path: str) -> None:
    app = application()
    got, head = call(app, "GET", path), call(app, "HEAD", path)
    assert (head.status, head.body) == (got.status, b"")
    assert head.headers["content-length"] == str(len(got.body)) == got.headers["content-length"]
    assert call(app, "HEAD", "/nowhere").body == b""


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nowhere"])
def test_preflight_needs_no_key(application: Make, path: str) -> None:
    headers = {
        "HTTP_ORIGIN": "https://page.example",
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
        "HTTP_ACCESS_CONTROL_REQUEST_HEADERS": "authorization, content-type",
    }
    answer = call(application(api_keys="k"), "OPTIONS", path, **headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-request-id" in answer.headers


def test_models_are_listed_and_retrieved(application: Make) -> None:
    app = application({"mine": {"type": "echo", "models": "a/b, c"}})
    listed = call(app, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["a/b", "c", "echo"]
    for model in listed["data"]:
        assert sorted(model) == ["created", "id", "object", "owned_by"]
        assert abs(time.time() - model["created"]) < 3600
        assert call(app, "GET", f"/v1/models/{model['id']}").json() == model
    missing = call(app, "GET", "/v1/models/nobody")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")
    non_ascii = call(app, "GET", "/v1/models/" + "Ω".encode().decode("latin-1"))
    assert "Ω" in non_ascii.error["message"]


def test_unknown_model_returns_404(application: Make) -> None:
    for stream in (True, False):
        answer = call(application(), "POST", CHAT, {**chat("a", stream=stream), "model": "no"})
        assert answer.status == 404
        assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")


def test_drain_stops_only_readiness_and_completions(
    application: Make,
) -> None:
    app = application()
    assert call(app, "GET", "/readyz").json() == {"status": "ok"}
    app.drain()
    assert call(app, "GET", "/readyz").status == 503
    assert call(app, "GET", "/healthz").json() == {"status": "ok"}
    assert call(app, "GET", "/v1/models").status == 200
    refused = call(app, "POST", CHAT, chat("a"))
    assert (refused.status, refused.error["code"]) == (503, "server_shutting_down")
    assert refused.headers["retry-after"] == "1"


# -- request ids ---------------------------------------------------------------------------


def test_valid_request_id_is_returned(application: Make) -> None:
    for path in ("/healthz", "/nowhere", "/v1/models"):
        answer = call(application(), "GET", path, HTTP_X_REQUEST_ID="a-b_c.d/e~")
        assert answer.headers["x-request-id"] == "a-b_c.d/e~"


def test_invalid_request_id_is_replaced(application: Make) -> None:
    given = "a\r\nX: y"
    ids = {
        call(application(), "GET", "/healthz", HTTP_X_REQUEST_ID=given).headers["x-request-id"]
        for _ in range(2)
    }
    assert len(ids) == 2 and given not in ids
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", id) for id in ids)


def test_stream_and_log_line_carry_the_request_id(
    application: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "choreo_wsgi")
    answer = call(
        application(), "POST", CHAT, chat("secret words", stream=True), HTTP_X_REQUEST_ID="my-id"
    )
    assert answer.headers["x-request-id"] == "my-id"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("id=my-id ") and " outcome=completed " in line
    assert " tokens_in=2 tokens_out=2 " in line
    assert "secret" not in caplog.text


# -- failures ------------------------------------------------------------------------------


def scripted_app(application: Make, **settings: str) -> Application:
    return application({"s": {"type": "scripted", "models": "echo"}}, **settings)


@pytest.mark.parametrize(
    ("failure", "status", "code", "header", "stream"),
    [
        (ProviderError("no"), 502, "provider_api_error", None, True),
        (RateLimited("no", retry_after=7), 429, "rate_limit_exceeded", "7", False),
        (ChoreoError("odd", status=529, code="x"), 529, "x", None, False),
        (RuntimeError("inner secret"), 500, "internal_error", None, True),
    ],
)
def test_failure_before_the_first_byte_is_an_http_error(
    application: Make,
    scripted: Callable[[], Script],
    failure: Exception,
    status: int,
    code: str,
    header: str | None,
    stream: bool,
) -> None:
    script = scripted()
    script.finish(failure)
    app = scripted_app(application)
    answer = call(app, "POST", CHAT, chat("a", stream=stream))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers.get("retry-after") == header
    assert answer.headers["content-type"] == "application/json"
    assert b"secret" not in answer.body
    assert script.closed.is_set() and app.active == 0


def test_failure_mid_stream_is_one_error_frame(
    application: Make, scripted: Callable[[], Script], caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is also logged with its traceback."""
    script = scripted()
    script.finish("a", RuntimeError("inner secret"))
    answer = call(scripted_app(application), "POST", CHAT, chat("a", stream=True))
    data = data_of(answer.body)
    assert answer.status == 200
    assert data[-1]["error"]["code"] == "internal_error"
    assert sse.DONE not in answer.body and b"secret" not in answer.body
    assert b'"finish_reason":"stop"' not in answer.body
    assert "RuntimeError: inner secret" in caplog.text


def test_truncated_plain_completion_returns_502(
    application: Make, scripted: Callable[[], Script]
) -> None:
    script = scripted()
    script.finish("a", Delta("b"))
    answer = call(scripted_app(application), "POST", CHAT, chat("a"))
    assert (answer.status, answer.error["code"]) == (502, "upstream_truncated")


def test_next_provider_replaces_a_failing_one(
    application: Make, scripted: Callable[[], Script]
) -> None:
    app = application(
        {
            "bad": {"type": "scripted", "models": "m"},
            "good": {"type": "echo", "models": "m"},
        }
    )
    for stream in (True, False):
        scripted().finish(ProviderError("no"))
        answer = call(app, "POST", CHAT, {**chat("hello", stream=stream), "model": "m"})
        assert (answer.status, answer.headers["choreo-provider"]) == (200, "good")
        assert b"hello" in answer.body and b'"model":"m"' in answer.body


def test_completion_beyond_max_streams_is_rejected(
    application: Make, scripted: Callable[[], Script]
) -> None:
    app = scripted_app(application, max_streams="1")
    running = app(environ_of("POST", CHAT, chat("a", stream=True)), lambda *head: lambda data: None)
    assert app.active == 1
    for stream in (True, False):
        refused = call(app, "POST", CHAT, chat("a", stream=stream))
        assert (refused.status, refused.error["code"]) == (503, "service_overloaded")
        assert refused.headers["retry-after"] == "1"
    assert call(app, "GET", "/healthz").status == 200
    running.close()  # type: ignore[attr-defined]  # never started
    assert app.active == 0
    scripted().finish("b", Finish())
    assert call(app, "POST", CHAT, chat("a", stream=True)).status == 200


def test_each_upstream_call_of_n_choices_takes_a_slot(
    application: Make, scripted: Callable[[], Script]
) -> None:
    """A provider without ``n`` gets one request per choice."""
    for _ in range(3):
        scripted()
    app = scripted_app(application, max_streams="4")
    three = {**chat("a", stream=True), "n": 3}
    running = app(environ_of("POST", CHAT, three), lambda *head: lambda data: None)
    assert app.active == 3
    refused = call(app, "POST", CHAT, three)
    assert (refused.status, refused.error["code"]) == (503, "service_overloaded")
    impossible = call(app, "POST", CHAT, {**three, "n": 5})
    assert (impossible.status, impossible.error["param"]) == (400, "n")
    running.close()  # type: ignore[attr-defined]
    assert app.active == 0
    echo = application(max_streams="4")
    assert call(echo, "POST", CHAT, {**chat("a"), "n": 5}).status == 200, "no upstream calls"


def test_invalid_request_takes_no_slot(application: Make) -> None:
    app = application(max_streams="1")
    for _ in range(3):
        assert call(app, "POST", CHAT, {"model": "echo"}).status == 400
    assert app.active == 0
    assert call(app, "POST", CHAT, chat("a")).status == 200


def test_access_is_checked_before_path_and_method(application: Make) -> None:
    app = application()
    for path in (CHAT, "/v1/models", "/nowhere"):
        answer = call(app, "GET", path, REMOTE_ADDR="192.0.2.1")
        assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
        keyed = call(application(api_keys="k"), "GET", path)
        assert (keyed.status, keyed.error["code"]) == (401, "missing_authorization")
        assert keyed.headers["www-authenticate"] == "Bearer"
    assert call(app, "GET", "/healthz", REMOTE_ADDR="192.0.2.1").status == 200
    assert call(application(api_keys="k"), "GET", "/readyz").status == 200


@pytest.mark.parametrize("stream", [True, False])
def test_model_name_cannot_inject_a_header(
    application: Make, scripted: Callable[[], Script], stream: bool
) -> None:
    scripted().finish("b", Finish())
    name = "s/x\r\nSet-Cookie: a=b\u2028é"
    answer = call(
        scripted_app(application), "POST", CHAT, {**chat("a", stream=stream), "model": name}
    )
    assert answer.status == 200 and "set-cookie" not in answer.headers
    assert answer.headers["choreo-provider"] == "s/x??Set-Cookie: a=b??"
    document = data_of(answer.body)[0] if stream else answer.json()
    assert document["model"] == name


# -- other servers -------------------------------------------------------------------------


def test_wsgiref_server_streams(application: Make) -> None:
    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with make_server("127.0.0.1", 0, application(), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with harness.Client(("127.0.0.1", server.server_port)) as client:
                client.request("POST", CHAT, chat("a b", stream=True))
                answer = client.read_answer()
        finally:
            server.shutdown()
            thread.join()
    assert answer.status == 200
    assert texts_of(data_of(answer.body)[:-1]) == ["a b"]


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/", 200), ("/v1/models", 403)])
def test_open_paths_accept_any_origin(application: Make, path: str, status: int) -> None:
    """A status page may probe; only loopback pages may send requests that cost money."""
    assert call(application(), "GET", path, HTTP_ORIGIN="https://else.test").status == status


@pytest.mark.parametrize(
    ("method", "path", "more", "blocks"),
    [
        ("POST", "/v1/chat/completions", {}, False),
        ("POST", "/v1/messages", {"CONTENT_LENGTH": "65536"}, False),
        ("POST", "/v1/messages", {"CONTENT_LENGTH": "65537"}, True),
        ("POST", "/v1/responses", {}, True),
        ("GET", "/v1/models", {}, True),
        ("GET", "/metrics", {}, True),
        ("GET", "/v1/streams/strm_1", {}, False),
    ],
)
def test_blocks_is_true_for_requests_that_need_a_worker(
    application: Make, method: str, path: str, more: dict[str, str], blocks: bool
) -> None:
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, **more}
    assert application().blocks(environ) is blocks


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/healthz")])
def test_shared_limits_block_only_posts(tmp_path: Path, method: str, path: str) -> None:
    """A health check is answered although the store hangs."""
    sections = {"key ann": {"digest": "a" * 64, "max_streams": "1"}}
    app = harness.make_app({"replay": f"sqlite:{tmp_path / 'replay.db'}"}, sections)
    assert app.blocks({"REQUEST_METHOD": method, "PATH_INFO": path}) is (method == "POST")
    app.close()
