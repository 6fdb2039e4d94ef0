"""The providers' own SDKs judge us: they read the same in an answer, and send the same."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from corpus_cases import KEY, Case, cases
from raw_server import RawServer, Request
from sdk_readers import SDKS, Reading, ours

CASES = [case for case in cases() if (case.folder / "sdk.json").exists()]

#: What a connection and a client library say of themselves, and how a key is shown: Anthropic's
#: SDK has changed from x-api-key to a bearer token, and both are taken; it sends traceparent where
#: another test has set OpenTelemetry up, which nobody can take back.
_INCIDENTAL = re.compile(
    r"host|connection|content-length|accept.*|user-agent|authorization|(x-)?api-key|"
    r"x-stainless-.*|x-goog-api-client|x-amz-.*|amz-sdk-.*|openai-.*|traceparent"
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_sdk_and_adapter_agree(case: Case) -> None:
    if case.id == "gemini/unicode" and sys.version_info < (3, 11):
        pytest.skip("the last google-genai for this Python ends a line at U+2028")
    with RawServer.playing((case.folder / "upstream.http").read_bytes()) as server:
        read = SDKS[case.provider_type](case, server.url)
        theirs = server.requests[-1]
        provider = case.provider(base_url=server.url)
        try:
            mine = ours(provider.open(case.request))
        finally:
            provider.close()
    sent = server.requests[server.requests.index(theirs) + 1]
    assert comparable(sent) == comparable(theirs)
    assert KEY in str(sent.headers.items())
    compare(case, mine, read)


def comparable(asked: Request) -> dict[str, Any]:
    """Return what two requests have in common if they mean the same."""
    headers = {
        name.lower(): value
        for name, value in asked.headers.items()
        if not _INCIDENTAL.fullmatch(name.lower())
    }
    body = json.loads(asked.body)
    if body.get("tools") == []:  # which Ollama's SDK sends for none
        del body["tools"]
    for message in body.get("messages", ()):  # Ollama's SDK leaves an empty one out
        message.setdefault("content", "")
    if "contents" in body:
        body = camel_case(body)
        if body.get("generationConfig") == {}:  # as Google's SDK does
            del body["generationConfig"]
    return {"method": asked.method, "target": asked.path, "headers": headers, "body": body}


def camel_case(value: Any) -> Any:
    """Return Google's JSON with names in one of the two forms in which they are taken."""
    if isinstance(value, list):
        return [camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, item in value.items():
        head, *tail = name.split("_")
        name = head + "".join(word.title() for word in tail)
        verbatim = name in ("args", "response") or name.endswith("JsonSchema")
        made[name] = item if verbatim else camel_case(item)
    if "mimeType" in made and "data" in made:  # base64 in its other alphabet
        made["data"] = made["data"].replace("-", "+").replace("_", "/")
    return made


def compare(case: Case, mine: Reading, read: Reading) -> None:
    if "truncated" in case.folder.name:
        assert mine.failed  # which no SDK notices
        assert mine.text == read.text or read.failed
        return
    assert mine.failed == read.failed
    if not mine.failed:
        assert mine == read
