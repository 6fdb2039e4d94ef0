"""Bedrock's framing and signatures, beside botocore and beside AWS's description of them."""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from botocore.eventstream import EventStreamBuffer
from corpus_cases import CORPUS, cases
from hypothesis import given
from hypothesis import strategies as st

from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.errors import ProviderNotConfigured
from choreo_wsgi.providers.bedrock.eventstream import Frame, FrameDecoder, FrameError, encode
from choreo_wsgi.providers.bedrock.provider import Bedrock
from choreo_wsgi.settings import Settings
from choreo_wsgi.upstream import HTTPRequest

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
frames = st.lists(
    st.tuples(st.dictionaries(names, st.text(max_size=20), max_size=4), st.binary(max_size=80)),
    max_size=4,
)
SAMPLE = encode({":event-type": "contentBlockDelta", ":message-type": "event"}, b'{"a":1}')


@given(frames, st.integers(1, 50))
def test_what_is_encoded_is_decoded(frames: list[tuple[dict[str, str], bytes]], step: int) -> None:
    data = b"".join(encode(headers, payload) for headers, payload in frames)
    decoder = FrameDecoder()
    found: list[Frame] = []
    for at in range(0, len(data), step):
        found += decoder.receive_data(data[at : at + step])
    assert found == [Frame(headers, payload) for headers, payload in frames]
    assert not decoder.pending
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    theirs = [(message.headers, message.payload) for message in buffer]
    assert theirs == [(dict(headers), payload) for headers, payload in frames]


@pytest.mark.parametrize("at", range(len(SAMPLE)))
def test_a_changed_byte_is_noticed(at: int) -> None:
    damaged = bytearray(SAMPLE)
    damaged[at] ^= 0x20
    decoder = FrameDecoder()
    with pytest.raises(FrameError) as caught:
        decoder.receive_data(SAMPLE + bytes(damaged) + SAMPLE)
    assert [frame.payload for frame in caught.value.frames] == [b'{"a":1}']


def test_headers_of_other_types_are_passed_over() -> None:
    """Every type of AWS's list, before a string."""
    values = [(0, b""), (1, b""), (2, b"x"), (3, b"xx"), (4, b"x" * 4), (5, b"x" * 8)]
    values += [(6, b"\0\2xx"), (8, b"x" * 8), (9, b"x" * 16), (7, b"\0\2ok")]
    block = b"".join(b"\1a" + bytes((kind,)) + value for kind, value in values)
    assert FrameDecoder().receive_data(_message(block, b"p")) == [Frame({"a": "ok"}, b"p")]


@pytest.mark.parametrize(
    "block", [b"\1a\x0a", b"\5a", b"\1a\7\0\5x", b"\1\xff\7\0\1x", b"\1a\7\0\1\xff", b"\1a\5x"]
)
def test_headers_that_cannot_be_read(block: bytes) -> None:
    with pytest.raises(FrameError):
        FrameDecoder().receive_data(_message(block, b""))


def _message(block: bytes, payload: bytes) -> bytes:
    import zlib

    sizes = struct.pack(">II", len(block) + len(payload) + 16, len(block))
    data = sizes + struct.pack(">I", zlib.crc32(sizes)) + block + payload
    return data + struct.pack(">I", zlib.crc32(data))


def test_a_message_over_the_limit() -> None:
    decoder = FrameDecoder(limit=len(SAMPLE))
    assert len(decoder.receive_data(SAMPLE)) == 1
    with pytest.raises(FrameError):
        decoder.receive_data(encode({}, b"x" * len(SAMPLE))[:12])


def test_the_corpus_is_the_same_to_botocore() -> None:
    for case in cases("bedrock"):
        if case.answer[0] != 200 or "bad-checksum" in case.folder.name:
            continue
        buffer = EventStreamBuffer()
        buffer.add_data(case.answer[2])
        theirs = [(message.headers, message.payload) for message in buffer]
        mine = FrameDecoder().receive_data(case.answer[2])
        assert [(frame.headers, frame.payload) for frame in mine] == theirs
    assert CORPUS.is_dir()


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


def encoded(model: str = "anthropic.claude-v1:0") -> HTTPRequest:
    provider = Bedrock("bedrock", {"region": "eu-west-1"}, Settings())
    messages = [{"role": "user", "content": "hi"}]
    try:
        return provider.encode(ChatRequest(model, messages, {"model": model}))
    finally:
        provider.close()


def test_signature(without_aws: pytest.MonkeyPatch) -> None:
    """It is what AWS's description of Signature Version 4 comes to."""
    without_aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    without_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    without_aws.setenv("AWS_SESSION_TOKEN", "token")
    request = encoded()
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
    everything = {**headers, "host": url.netloc}
    canonical = "\n".join(
        [
            "POST",
            quote(url.path),  # encoded once more
            "",
            *(f"{name}:{everything[name]}" for name in signed.split(";")),
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


def test_no_credentials(without_aws: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProviderNotConfigured, match="AWS_BEARER_TOKEN_BEDROCK"):
        encoded()


def test_no_botocore(without_aws: pytest.MonkeyPatch) -> None:
    without_aws.setitem(__import__("sys").modules, "botocore.session", None)
    with pytest.raises(ProviderNotConfigured, match=r"choreo-wsgi\[bedrock\]"):
        encoded()


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        ({"AWS_REGION": "eu-west-1"}, {}),
        ({"AWS_ACCESS_KEY_ID": "a"}, {}),
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
def test_environment(environment: dict[str, str], options: dict[str, str]) -> None:
    assert Bedrock.from_environment(environment) == options
