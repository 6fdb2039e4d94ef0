"""Bedrock's event framing, and its signatures compared with AWS's description."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from aws_events import encode, message
from corpus_cases import Message, Playback

from choreo_wsgi.chat.items import Delta
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import (
    ChoreoError,
    ProviderError,
    ProviderNotConfigured,
    UpstreamInvalid,
    UpstreamTruncated,
)
from choreo_wsgi.providers.bedrock.answer import BedrockTranslator, EventReader, unwrap
from choreo_wsgi.providers.bedrock.provider import Bedrock
from choreo_wsgi.settings import Settings
from choreo_wsgi.upstream.request import HTTPRequest


def event(kind: str, **body: Any) -> bytes:
    return encode({":event-type": kind, ":message-type": "event"}, json.dumps(body).encode())


SAMPLE = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "hi"})


def test_detects_any_changed_byte() -> None:
    """The events before it are returned all the same."""
    for at in range(len(SAMPLE)):
        damaged = bytearray(SAMPLE)
        damaged[at] ^= 0x20
        reader = BedrockTranslator()
        assert reader.receive_data(SAMPLE + bytes(damaged) + SAMPLE) == [Delta("hi")], at
        with pytest.raises(ChoreoError) as caught:
            reader.end()
        assert caught.value.code in ("upstream_invalid", "upstream_truncated"), at


@pytest.mark.parametrize(
    "block", [b"\1a\x0a", b"\5a", b"\1\xff\7\0\1x", b"\1a\7\0\1\xff", b"\1a\5x"]
)
def test_rejects_unreadable_event_headers(block: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        BedrockTranslator().receive_data(message(block, b"{}"))


def test_rejects_an_event_over_the_limit() -> None:
    reader = BedrockTranslator(limit=len(SAMPLE))
    assert reader.receive_data(SAMPLE) == [Delta("hi")]
    more = event("contentBlockDelta", contentBlockIndex=0, delta={"text": "x" * len(SAMPLE)})
    with pytest.raises(UpstreamInvalid):
        reader.receive_data(more[: len(SAMPLE) + 1])


def test_an_answer_cut_inside_its_last_event_is_truncated() -> None:
    translator = BedrockTranslator()
    stop = event("messageStop", stopReason="end_turn")
    translator.receive_data(SAMPLE + stop + event("metadata", usage={"inputTokens": 3})[:-1])
    with pytest.raises(UpstreamTruncated):
        translator.end()


def picture(index: int, form: str | None, *pieces: bytes) -> bytes:
    """Return the events of an image in block *index*, which stops twice."""
    data = event("contentBlockStart", contentBlockIndex=index, start={"image": {"format": form}})
    for piece in pieces:
        delta = {"image": {"source": {"bytes": b64encode(piece).decode()}}}
        data += event("contentBlockDelta", contentBlockIndex=index, delta=delta)
    return data + 2 * event("contentBlockStop", contentBlockIndex=index)


def test_joins_the_pieces_of_each_image() -> None:
    """Each piece is base64 with its own padding."""
    received = BedrockTranslator().receive_data(
        picture(1, "jpeg", b"a", b"bc") + picture(2, None, b"d")
    )
    images = [
        {"index": at, "type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}}
        for at, (form, data) in enumerate([("jpeg", "YWJj"), ("png", "ZA==")])
    ]
    assert received == [Delta(extra={"images": [image]}) for image in images]


@pytest.mark.parametrize(
    ("error", "words"), [({"message": "too vague"}, "too vague"), ({"code": 1}, "no reason")]
)
def test_an_image_that_failed_is_an_error(error: Any, words: str) -> None:
    failed = event("contentBlockDelta", contentBlockIndex=0, delta={"image": {"error": error}})
    with pytest.raises(ProviderError, match=words):
        BedrockTranslator().receive_data(failed)


def test_unwraps_only_chunks() -> None:
    inner = b64encode(b'{"type":"ping"}').decode()
    data = event("initial-response", bytes="no") + event("chunk", bytes=inner)
    assert unwrap(EventReader(), data) == b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize("kind", ["error", "exception"])
def test_an_error_without_a_message_has_its_name_as_message(kind: str) -> None:
    name = ":error-code" if kind == "error" else ":exception-type"
    with pytest.raises(ChoreoError) as caught:
        BedrockTranslator().receive_data(encode({":message-type": kind, name: "busy"}, b"{}"))
    assert caught.value.message == "busy"


def test_bedrock_forwards_only_messages_to_claude() -> None:
    provider = Bedrock("bedrock", {"api_key": "k"}, Settings())
    assert provider.forwards("messages", "anthropic.claude-v1:0")
    assert not provider.forwards("messages", "amazon.nova-pro-v1:0")
    assert not provider.forwards("responses", "anthropic.claude-v1:0")


# -- signatures ----------------------------------------------------------------------------


@pytest.fixture
def without_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which nothing of AWS is configured."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def signed_request(model: str = "anthropic.claude-v1:0", **options: str) -> HTTPRequest:
    provider = Bedrock("bedrock", {"region": "eu-west-1", **options}, Settings())
    assert provider.blocking  # to look credentials up takes time
    messages = [{"role": "user", "content": "hi"}]
    try:
        return provider.signed(provider.encode(ChatRequest(model, messages, {"model": model})))
    finally:
        provider.close()


def test_signature_matches_aws_description(without_aws: pytest.MonkeyPatch) -> None:
    """Computed here as AWS describes Signature Version 4."""
    without_aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    without_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    without_aws.setenv("AWS_SESSION_TOKEN", "token")
    request = signed_request()
    headers = request.headers
    assert headers["x-amz-security-token"] == "token"
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{8})/eu-west-1/bedrock/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers["authorization"],
    )
    assert found is not None
    day, signed, signature = found.groups()
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(signed.split(";"))
    url = urlsplit(request.url)
    assert url.path == "/model/anthropic.claude-v1%3A0/converse-stream"
    signed_headers = {**headers, "host": url.netloc}
    canonical = "\n".join(
        [
            "POST",
            quote(url.path),  # the path is encoded twice
            "",
            *(f"{name}:{signed_headers[name]}" for name in signed.split(";")),
            "",
            signed,
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    scope = f"{day}/eu-west-1/bedrock/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4secret"
    for step in (
        *scope.split("/"),
        f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}",
    ):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    assert key.hex() == signature


def test_signs_with_the_profile_of_the_section(
    without_aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profiles = "".join(
        f"[{name}]\naws_access_key_id={name}\naws_secret_access_key=s\n"
        for name in ("default", "work")
    )
    (tmp_path / "credentials").write_text(profiles)
    for name, options in (("default", {}), ("work", {"profile": "work"})):
        assert f"Credential={name}/" in signed_request(**options).headers["authorization"]


def test_trace_headers_are_sent_but_not_signed(without_aws: pytest.MonkeyPatch) -> None:
    without_aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    without_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    provider: Any = Bedrock("bedrock", {}, Settings())
    provider.close()
    provider.client = Playback(200, Message(), [])
    messages = [{"role": "user", "content": "hi"}]
    provider.open(ChatRequest("m", messages, {"model": "m"}, trace={"traceparent": "00-1-2-00"}))
    (sent,) = provider.client.sent
    assert sent.headers["traceparent"] == "00-1-2-00"
    assert "traceparent" not in sent.headers["authorization"]


def test_a_bearer_token_needs_no_blocking_lookup() -> None:
    assert not Bedrock("bedrock", {"api_key": "k"}, Settings()).blocking


def test_missing_credentials_raise_provider_not_configured(without_aws: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProviderNotConfigured, match="AWS_BEARER_TOKEN_BEDROCK"):
        signed_request()


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        ({"AWS_REGION": "eu-west-1"}, {}),
        ({"AWS_ACCESS_KEY_ID": "a"}, {}),
        (
            {
                "AWS_BEARER_TOKEN_BEDROCK": "t",
                "AWS_REGION": "eu-west-1",
                "AWS_DEFAULT_REGION": "us-west-2",
            },
            {"api_key": "t", "region": "eu-west-1"},
        ),
        (
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"},
            {"region": "us-east-1"},
        ),
        (
            {"AWS_BEARER_TOKEN_BEDROCK": "t", "AWS_DEFAULT_REGION": "eu-west-1"},
            {"api_key": "t", "region": "eu-west-1"},
        ),
    ],
)
def test_environment_variables_become_options(
    environment: dict[str, str], options: dict[str, str]
) -> None:
    assert Bedrock.from_environment(environment) == options
